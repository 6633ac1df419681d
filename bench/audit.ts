import { randomBytes } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { sql } from 'kysely';
import { type Database, openDatabase } from '../src/db/open.js';
import { Audit } from '../src/domains/audit/audit.js';
import { openInstallation } from '../src/domains/installation/installation.js';
import { createLog } from '../src/lib/log.js';
import { newId } from '../src/lib/ids.js';
import { Vault } from '../src/vault/vault.js';
import type { Bench } from './support/bench.js';
import { prepareDatabase } from './support/berth.js';
import { addedRow, type Report, rowOf, Times } from './support/measure.js';
import type { Scope } from './support/scope.js';
import { makeFolder } from './support/world.js';

const AT_ONCE = 50;
/** About what an entry is. */
const ROW_BYTES = 700;

/** What a change waits for until it is on record, beside one insert of a row of that size; and how fast entries are linked and checked. */
export const audit: Bench = async ({ scope, scaled, databases }) => {
  const reports: Report[] = [];
  for (const { kind, url } of await databases()) {
    const { database, of, userId } = await open(scope, url);
    const rounds = scaled(3_000);
    const row = randomBytes(ROW_BYTES / 2).toString('hex');
    const insert = () => sql`insert into bench_rows (id, text) values (${newId('evt')}, ${row})`.execute(database.db);
    const record = async () => (await of.trail.begin(asked(userId)))({ status: 200, code: undefined });
    await timed(rounds / 5, 1, insert);
    await timed(rounds / 5, 1, record);
    const floor = await timed(rounds, 1, insert);
    const one = await timed(rounds, 1, record);
    const floorOfMany = await timed(rounds, AT_ONCE, insert);
    const many = await timed(rounds, AT_ONCE, record);
    await of.flush();
    const entries = await countEntries(database);
    const sealing = await secondsOf(() => of.seal(new AbortController().signal));
    const checking = await secondsOf(async () => {
      const { ok, checked, findings } = await of.verify(0, undefined);
      if (!ok || checked !== entries)
        throw new Error(`the chain does not hold: ${JSON.stringify(findings).slice(0, 500)}, ${checked} of ${entries}`);
    });
    reports.push({
      title: `a change is put on record (${kind})`,
      rows: [
        rowOf('one insert', floor),
        rowOf('on record', one),
        addedRow('added to one insert', floor, one),
        rowOf(`one insert, ${AT_ONCE} at once`, floorOfMany),
        rowOf(`on record, ${AT_ONCE} at once`, many),
        { what: 'linked, entries', n: entries, value: `${Math.round(entries / sealing)} /s` },
        { what: 'checked, entries', n: entries, value: `${Math.round(entries / checking)} /s` },
      ],
      verdicts: [{ what: 'on record, over one insert, p50', value: one.p50 - floor.p50, unit: 'ms', atMost: 3 }],
      notes: ['its end is written after the answer, and is in the load of these figures'],
    });
    await scope.close();
  }
  return reports;
};

async function open(scope: Scope, postgres: string | undefined): Promise<{ database: Database; of: Audit; userId: string }> {
  const dataDir = join(await makeFolder(scope), 'd');
  await mkdir(dataDir);
  const databaseUrl = await prepareDatabase(dataDir, postgres);
  const log = createLog('silent');
  const database = await openDatabase({ databaseUrl, dataDir, log });
  scope.add(() => database.close());
  const vault = await Vault.open({ masterKey: randomBytes(32) });
  const { id: installationId } = await openInstallation({ db: database.db, vault, dataDir });
  const userId = newId('usr');
  await sql`insert into users (id, name, tier, data_key) values (${userId}, 'bench', 'pro', ${vault.newDataKey(userId)})`.execute(
    database.db,
  );
  await sql`create table bench_rows (id text primary key, text text not null)`.execute(database.db);
  const of = new Audit({ db: database.db, bus: database.bus, vault, log, installationId, processId: 'bench' });
  await of.begin();
  return { database, of, userId };
}

function asked(userId: string) {
  const caller = { kind: 'user', keyId: 'key_bench', userId, userName: 'bench', tier: 'pro' } as const;
  const path = `/api/v1/users/${userId}/agents`;
  const body = Buffer.from('{"name":"bench"}');
  return {
    requestId: newId('req'),
    operation: 'postUsersByUserAgents',
    caller,
    userId,
    address: '::1',
    path,
    resource: userId,
    body,
  };
}

/** So many runs, so many at a time. */
async function timed(runs: number, atOnce: number, run: () => Promise<unknown>): Promise<Times> {
  const times = new Times();
  let left = Math.max(1, Math.round(runs));
  const worker = async () => {
    while (left-- > 0) {
      const began = performance.now();
      await run();
      times.add(performance.now() - began);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
  return times;
}

async function secondsOf(run: () => Promise<void>): Promise<number> {
  const began = performance.now();
  await run();
  return (performance.now() - began) / 1000;
}

async function countEntries({ db }: Database): Promise<number> {
  const { rows } = await sql<{ n: number }>`select count(*)::int as n from audit_entries`.execute(db);
  return rows[0]!.n;
}
