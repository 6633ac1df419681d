import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Audit } from '../../src/domains/audit/audit.js';
import { createLog } from '../../src/lib/log.js';
import { Vault } from '../../src/vault/vault.js';
import { startApp, type TestApp } from '../support/app.js';
import { startChild } from '../support/child.js';
import { until } from '../support/until.js';

let app: TestApp;
let other: TestApp;
beforeAll(async () => {
  app = await startApp({ database: 'postgres', app: { rates: { perAddress: 100_000, failuresPerAddress: 50 } } });
  other = await startApp({ beside: app });
});
afterAll(async () => {
  await other.stop();
  await app.stop();
});

const verify = async () => (await app.get('/api/v1/audit/verify', app.adminKey)).json;
const counts = async (where = sql<boolean>`true`) => {
  const { rows } = await sql<{ all: string; placed: string; last: string; said: string }>`
    select count(*) as all, count(seq) as placed, coalesce(max(seq), 0) as last, coalesce(sum(count), 0) as said from audit_entries where ${where}`.execute(
    app.database.db,
  );
  const { all, placed, last, said } = rows[0]!;
  return { all: Number(all), placed: Number(placed), last: Number(last), said: Number(said) };
};
const whole = async () => {
  await until(async () => (await verify()).unsealed === 0, 'all entries to be sealed');
  const { all, placed, last } = await counts();
  expect([placed, last]).toEqual([all, all]);
  expect(await verify()).toMatchObject({ ok: true, findings: [], checked: all });
};

test('two processes write at once, and there is one chain with every entry once', async () => {
  const user = await app.user();
  const asked = Array.from({ length: 60 }, (_, n) => (n % 2 ? app : other).post('/api/v1/keys', user.key, {}));
  expect(new Set((await Promise.all(asked)).map(({ status }) => status))).toEqual(new Set([201]));
  await until(async () => (await counts(sql`operation = 'postUsersByUserKeys'`)).all === 120, 'a beginning and an end of each');
  await whole();
});

test('who is refused without end fills no table, and every refusal is counted', async () => {
  const user = await app.user();
  const REFUSED = sql<boolean>`kind = 'refused'`;
  const before = await counts(REFUSED);
  const paths = ['/api/v1/users', '/api/v1/tiers', '/api/v1/audit', '/api/v1/users/usr_x/agents', '/v1/models'];
  for (let round = 0; round < 40; round++)
    await Promise.all(paths.map((path) => app.get(path, round % 4 === 0 ? undefined : `berth_usr_garbage${round}`)));
  for (let round = 0; round < 40; round++) await app.get('/api/v1/users', user.key);
  const { db } = app.database;
  const soon = await counts(REFUSED);
  expect(soon.all - before.all).toBeLessThanOrEqual(35 + 1);
  // Ending a process writes what it has counted.
  await app.leave();
  const after = await sql<{ all: string; said: string }>`
    select count(*) as all, sum(count) as said from audit_entries where kind = 'refused'`.execute(db);
  expect(Number(after.rows[0]!.said) - before.said).toBe(240);
  expect(Number(after.rows[0]!.all) - before.all).toBeLessThanOrEqual(2 * (35 + 1));
});

test('kill -9 in the midst of sealing leaves nothing half done, and the next goes on', async () => {
  const { db, bus, url } = app.database;
  await other.leave();
  const vault = await Vault.open({ masterKey: Buffer.from(app.masterKey) });
  const installationId = app.installation.id;
  const audit = new Audit({ db, bus, vault, log: createLog('silent'), installationId, processId: 'p-here' });
  await audit.seal(new AbortController().signal);
  const { last } = await counts();
  for (let n = 0; n < 20; n++) {
    const asked = { requestId: `r${n}`, operation: 'x', caller: undefined, userId: undefined, address: '::1', path: '/x' };
    (await audit.trail.begin({ ...asked, resource: undefined }))({ status: 200, code: undefined });
  }
  await audit.flush();
  const child = startChild(new URL('audit-sealer-child.ts', import.meta.url), [url!, installationId]);
  child.say(app.masterKey.toString('base64'));
  await child.hear(/at the head/);
  // It holds the head: nobody else seals meanwhile, and nobody waits.
  await audit.seal(new AbortController().signal);
  expect((await counts()).last).toBe(last);
  await child.kill();
  await until(async () => {
    await audit.seal(new AbortController().signal);
    return (await counts()).last === last + 40;
  }, 'the places to be given');
  expect(await audit.verify(0, undefined)).toMatchObject({ ok: true, findings: [], unsealed: 0 });
});
