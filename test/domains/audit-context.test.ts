import { randomBytes } from 'node:crypto';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { AuditKeys } from '../../src/domains/audit/audit-keys.js';
import { Audit } from '../../src/domains/audit/audit.js';
import { erasedForm } from '../../src/domains/audit/entry.js';
import { EntryContext } from '../../src/domains/audit/entry-context.js';
import { LocalBus } from '../../src/events/local-bus.js';
import { newId } from '../../src/lib/ids.js';
import { createLog } from '../../src/lib/log.js';
import { Vault } from '../../src/vault/vault.js';
import { databaseKinds, testDatabase, type TestDatabase } from '../support/database.js';

describe.each(databaseKinds)('what the audit knows without asking (%s)', (kind) => {
  let database: TestDatabase;
  let vault: Vault;
  const log = createLog('silent');
  beforeAll(async () => {
    database = await testDatabase(kind);
    vault = await Vault.open({ masterKey: randomBytes(32) });
  });
  afterAll(() => database.close());

  async function user(): Promise<string> {
    const id = newId('usr');
    const row = { id, name: id, tier: 'free', data_key: vault.newDataKey(id) };
    await database.db.insertInto('users').values(row).execute();
    return id;
  }

  const asked = (userId: string, requestId: string) => ({
    requestId,
    operation: 'change',
    caller: { kind: 'user' as const, keyId: 'key_x', userId, userName: 'its-name', tier: 'free' },
    userId,
    address: '::1',
    path: '/x',
    resource: userId,
  });

  test('nothing personal is written of a user that is gone, though nobody said so and its key is known still', async () => {
    const audit = new Audit({ db: database.db, bus: new LocalBus(log), vault, log, installationId: 'itl_x', processId: 'p' });
    await audit.begin();
    const id = await user();
    await audit.trail.begin(asked(id, 'before'));
    await database.db.deleteFrom('users').where('id', '=', id).execute();
    (await audit.trail.begin(asked(id, 'after')))({ status: 200, code: undefined });
    await audit.flush();
    const { rows } = await sql<object>`select kind, user_id, actor, resource, request_id, personal from audit_entries
      where user_id = ${erasedForm(id)} order by id`.execute(database.db);
    const erased = {
      user_id: erasedForm(id),
      actor: erasedForm('user:key_x'),
      resource: erasedForm(id),
      request_id: erasedForm('after'),
      personal: null,
    };
    expect(rows).toEqual([
      { kind: 'begun', ...erased },
      { kind: 'ended', ...erased },
    ]);
    const open = await sql`select 1 from audit_open where user_id in (${id}, ${erasedForm(id)})`.execute(database.db);
    // The one that began before is not its end's.
    expect(open.rows).toHaveLength(1);
    await audit.seal(new AbortController().signal);
    const kept = await sql`select 1 from audit_entries where user_id = ${id}`.execute(database.db);
    expect(kept.rows).toEqual([]);
  });

  test('a key that grows old while it is used is not taken for that of nobody; one whose user changed is asked for anew', async () => {
    const bus = new LocalBus(log);
    const context = new EntryContext({ db: database.db, bus, keys: new AuditKeys({ db: database.db, vault }) });
    const id = await user();
    const first = await context.of([id, null]);
    const second = await context.of([id, null]);
    const now = vi.spyOn(performance, 'now').mockReturnValue(performance.now() + 10_000);
    expect([first, second].map(({ keyOf }) => [keyOf(id), keyOf(null)].map((key) => key !== undefined))).toEqual([
      [true, true],
      [true, true],
    ]);
    now.mockRestore();
    expect(Math.abs(second.at.getTime() - first.at.getTime())).toBeLessThan(60_000);
    await database.db.deleteFrom('users').where('id', '=', id).execute();
    bus.publish('user', id);
    expect((await context.of([id])).keyOf(id)).toBeUndefined();
  });
});
