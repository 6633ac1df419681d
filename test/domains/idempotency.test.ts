import { randomBytes } from 'node:crypto';
import { sql } from 'kysely';
import { beforeEach, describe, expect, test } from 'vitest';
import { Idempotency } from '../../src/domains/idempotency/idempotency.js';
import type { IdempotencyEntry } from '../../src/http/idempotency.js';
import { Vault } from '../../src/vault/vault.js';
import { databaseKinds, type TestDatabase, testDatabase } from '../support/database.js';

const ANSWER = { status: 201, headers: { 'content-type': 'application/json' }, body: Buffer.from('{"api_key":"shown once"}') };

describe.each(databaseKinds)('idempotency keys on %s', (kind) => {
  let database: TestDatabase;
  let idempotency: Idempotency;
  let attempts = 0;
  const entry = (change: Partial<IdempotencyEntry> = {}): IdempotencyEntry => ({
    caller: 'admin:key_1',
    userId: null,
    route: 'POST /api/v1/users',
    keyDigest: 'k',
    bodyDigest: 'b',
    attempt: `attempt ${++attempts}`,
    ...change,
  });
  const rows = () => database.db.selectFrom('idempotency_keys').selectAll().execute();
  const expire = (what: 'lease_until' | 'created_at', by: string) =>
    database.db
      .updateTable('idempotency_keys')
      .set({ [what]: sql`now() - ${by}::interval` })
      .execute();

  beforeEach(async () => {
    database ??= await testDatabase(kind);
    await database.db.deleteFrom('idempotency_keys').execute();
    idempotency = new Idempotency({ db: database.db, vault: await Vault.open({ masterKey: randomBytes(32) }) });
  });

  test('a second run gets the answer of the first, as it was', async () => {
    const first = entry();
    expect(await idempotency.begin(first)).toBe('new');
    expect(await idempotency.begin(entry())).toEqual({ status: 'running' });
    await idempotency.finish(first, ANSWER);
    expect(await idempotency.begin(entry())).toEqual({ status: 'done', answer: ANSWER });
  });

  test('another body is a mismatch; another caller or route is another entry', async () => {
    await idempotency.begin(entry());
    expect(await idempotency.begin(entry({ bodyDigest: 'c' }))).toEqual({ status: 'mismatch' });
    expect(await idempotency.begin(entry({ caller: 'admin:key_2' }))).toBe('new');
    expect(await idempotency.begin(entry({ route: 'POST /api/v1/tiers' }))).toBe('new');
  });

  test('of many at once exactly one runs', async () => {
    const begun = await Promise.all(Array.from({ length: 20 }, () => idempotency.begin(entry())));
    expect(begun.filter((result) => result === 'new')).toHaveLength(1);
    expect(begun.filter((result) => result !== 'new')).toEqual(Array(19).fill({ status: 'running' }));
  });

  test('the answer is sealed, and opens at its own entry only', async () => {
    const first = entry();
    await idempotency.begin(first);
    await idempotency.finish(first, ANSWER);
    expect(Buffer.concat((await rows()).map((row) => row.answer!)).includes('shown once')).toBe(false);
    await database.db.updateTable('idempotency_keys').set({ caller: 'user:key_2' }).execute();
    // Carried out, and not to be carried out again; what it answered is nobody's.
    expect(await idempotency.begin(entry({ caller: 'user:key_2' }))).toEqual({ status: 'done', answer: undefined });
  });

  test('an answer too large to keep still says that the request was carried out', async () => {
    const first = entry();
    await idempotency.begin(first);
    await idempotency.finish(first, undefined);
    expect(await idempotency.begin(entry())).toEqual({ status: 'done', answer: undefined });
  });

  test('an abandoned run leaves nothing', async () => {
    const first = entry();
    await idempotency.begin(first);
    await idempotency.abandon(first);
    expect(await rows()).toEqual([]);
  });

  test('a run that died is taken over, and can no longer settle what it lost', async () => {
    const dead = entry();
    await idempotency.begin(dead);
    await expire('lease_until', '1 second');
    expect(await idempotency.begin(entry({ bodyDigest: 'c' }))).toEqual({ status: 'mismatch' });
    const second = entry();
    expect(await idempotency.begin(second)).toBe('new');
    await idempotency.finish(dead, ANSWER);
    await idempotency.abandon(dead);
    expect(await idempotency.begin(entry())).toEqual({ status: 'running' });
    await idempotency.finish(second, { ...ANSWER, status: 200 });
    expect(await idempotency.begin(entry())).toMatchObject({ status: 'done', answer: { status: 200 } });
  });

  test('a renewed claim is not taken over', async () => {
    const first = entry();
    await idempotency.begin(first);
    await expire('lease_until', '1 second');
    await idempotency.renew(first);
    expect(await idempotency.begin(entry())).toEqual({ status: 'running' });
  });

  test('after a day the key is free again, and its row is pruned', async () => {
    const first = entry();
    await idempotency.begin(first);
    await idempotency.finish(first, ANSWER);
    await idempotency.begin(entry({ keyDigest: 'young' }));
    await database.db
      .updateTable('idempotency_keys')
      .set({ created_at: sql`now() - interval '25 hours'` })
      .where('key_digest', '=', 'k')
      .execute();
    await idempotency.prune(new AbortController().signal);
    expect((await rows()).map((row) => row.key_digest)).toEqual(['young']);
    await expire('created_at', '25 hours');
    expect(await idempotency.begin(entry({ keyDigest: 'young', bodyDigest: 'another' }))).toBe('new');
  });
});
