import { type Kysely, sql } from 'kysely';
import { beforeAll, describe, expect, test } from 'vitest';
import { addCrowd } from '../../bench/support/crowd.js';
import type { Schema } from '../../src/db/schema.js';
import * as beats from '../../src/domains/agents/beats.store.js';
import * as moves from '../../src/domains/agents/moves.store.js';
import * as chat from '../../src/domains/chat/chat.store.js';
import * as deployments from '../../src/domains/deployments/deployments.store.js';
import * as pool from '../../src/domains/deployments/pool.store.js';
import * as work from '../../src/domains/deployments/work.store.js';
import * as heartbeats from '../../src/domains/heartbeats/heartbeats.store.js';
import * as usage from '../../src/domains/usage/usage.store.js';
import * as users from '../../src/domains/users/users.store.js';
import { testDatabase, type TestDatabase } from '../support/database.js';

const SETTLED = 3_000;
const SOME_ID = `dep_${'7'.padStart(26, '0')}`;

describe(`among ${SETTLED} settled deployments`, () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await testDatabase('postgres');
    await addCrowd(database.db, 0, SETTLED, 'asleep');
  });

  test.each<[string, (db: Kysely<Schema>) => Promise<unknown>]>([
    ['claiming what is due', (db) => work.claimDueAcrossTenants(db, 'p', 8, 10)],
    ['listening for what changed', (db) => work.readLiveInstancesAcrossTenants(db, [SOME_ID])],
    ['marking what is to be looked at', (db) => work.lookAgainAcrossTenants(db, [SOME_ID])],
    ['forgetting what ended', (db) => work.pruneEndedAcrossTenants(db, 7)],
    ['putting to rest what is idle', (db) => deployments.restIdleAcrossTenants(db, 900)],
    ['noting what is used', (db) => deployments.noteUseAcrossTenants(db, [SOME_ID])],
    ['counting the pool', (db) => pool.countAcrossTenants(db)],
    ['taking up moves', (db) => moves.claimAcrossTenants(db, 4, 30)],
    ['deciding on heartbeats', (db) => beats.unplannedAcrossTenants(db, 500)],
    ['taking up heartbeats', (db) => heartbeats.claimDueAcrossTenants(db, 4, 1)],
    ['settling turns', (db) => chat.settleAbandonedAcrossTenants(db)],
    ['settling model calls', (db) => usage.readAbandonedAcrossTenants(db)],
    ['erasing users', (db) => users.readErasableAcrossTenants(db)],
  ])('%s reads no row that it need not', async (_, query) => {
    const read = await database.db.transaction().execute(async (trx) => {
      // What a connection has read before is told to the statistics only some time later: until then it counts as read just now.
      const before = await rowsRead(trx);
      await query(trx);
      const after = await rowsRead(trx);
      return [...after]
        .map(([table, rows]) => ({ table, rows: rows - (before.get(table) ?? 0) }))
        .filter(({ rows }) => rows > 20);
    });
    expect(read).toEqual([]);
  });

  test('none of them is ever claimed', async () => {
    const claimed = await database.db.transaction().execute((trx) => work.claimDueAcrossTenants(trx, 'p', SETTLED, 10));
    // That one was marked by the test above.
    expect(claimed.map(({ deploymentId }) => deploymentId).filter((id) => id !== SOME_ID)).toEqual([]);
  });
});

/** By table. */
async function rowsRead(db: Kysely<Schema>): Promise<Map<string, number>> {
  const { rows } = await sql<{ table: string; rows: number }>`
    select relname as table, (coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::int as rows
    from pg_stat_xact_user_tables`.execute(db);
  return new Map(rows.map(({ table, rows: count }) => [table, count]));
}
