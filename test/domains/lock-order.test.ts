import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import * as deployments from '../../src/domains/deployments/deployments.store.js';
import * as work from '../../src/domains/deployments/work.store.js';
import { type Database, openDatabase } from '../../src/db/open.js';
import { createLog } from '../../src/lib/log.js';
import { testDatabase, type TestDatabase } from '../support/database.js';
import { until } from '../support/until.js';

const COUNT = 60;
const ids = Array.from({ length: COUNT }, (_, i) => `dep_${String(i).padStart(3, '0')}`);
const MIDDLE = ids[COUNT / 2]!;

/** Each changes all of them. */
const WRITERS: [string, () => Promise<unknown>][] = [
  [
    'a roll-out',
    () =>
      database.db.transaction().execute((trx) =>
        deployments.rollAcrossTenants(
          trx,
          ids.map((deploymentId) => ({ deploymentId, image: 'image:2' })),
        ),
      ),
  ],
  ["a change of the user's limits", () => deployments.lookAgain(database.db, 'usr_a')],
  ['what the engine saw', () => work.lookAgainAcrossTenants(database.db, ids.toReversed())],
  ['a use', () => deployments.noteUseAcrossTenants(database.db, ids)],
  ['a hold', () => deployments.hold(database.db, 'usr_a')],
  ['the renewal of leases', () => work.renewLeasesAcrossTenants(database.db, 'p1', ids.toReversed(), 10)],
];
const PAIRS = WRITERS.flatMap(([a, one], i) => WRITERS.slice(i + 1).map(([b, other]) => [a, b, one, other] as const));

let made: TestDatabase;
let database: Database;
beforeAll(async () => {
  made = await testDatabase('postgres');
  // So that each reads by an index that suits it, some by the ids and some by the place in the table, as they would among more rows.
  for (const setting of ['enable_seqscan', 'enable_bitmapscan'])
    await sql`alter database ${sql.id(new URL(made.url!).pathname.slice(1))} set ${sql.raw(setting)} = off`.execute(made.db);
  database = await openDatabase({ databaseUrl: made.url, dataDir: '', log: createLog('silent') });
  await sql`insert into users (id, name, tier, data_key) values ('usr_a', 'a', 'free', ''), ('usr_b', 'b', 'free', '')`.execute(
    database.db,
  );
  // In the table they lie the other way round, among so many others that no reader takes the whole table.
  await sql`insert into deployments (id, user_id, kind, uid, volume)
    select 'dep_' || lpad(n::text, 3, '0'), 'usr_a', 'dedicated', n, 'v' || n from generate_series(${COUNT} - 1, 0, -1) n`.execute(
    database.db,
  );
  await sql`insert into deployments (id, user_id, kind, uid, volume)
    select 'dep_x' || n, 'usr_b', 'dedicated', 1000 + n, 'x' || n from generate_series(1, 3000) n`.execute(database.db);
  await sql`update deployments set lease_owner = 'p1', lease_until = now() + interval '1 day' where user_id = 'usr_a'`.execute(
    database.db,
  );
  await sql`analyze deployments`.execute(database.db);
});

afterAll(() => database.close());

/** Sessions of this database that wait for a row somebody holds. */
async function waiting(): Promise<number> {
  const { rows } = await sql<{ n: number }>`
    select count(*)::int as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`.execute(
    database.db,
  );
  return rows[0]?.n ?? 0;
}

describe('two that change the same deployments', () => {
  test.each(PAIRS)('%s and %s never wait for each other without end', async (_a, _b, one, other) => {
    for (let round = 0; round < 10; round++) {
      // Both come as far as the one in the middle, each from its side where it has one, and go on together.
      const calls = await database.db.transaction().execute(async (trx) => {
        await sql`select from deployments where id = ${MIDDLE} for update`.execute(trx);
        const both = [one(), other()].map((call) =>
          call.then(
            () => 'done',
            (error: unknown) => String(error),
          ),
        );
        await until(async () => (await waiting()) >= 2, 'both to wait');
        return both;
      });
      expect(await Promise.all(calls)).toEqual(['done', 'done']);
    }
  });
});
