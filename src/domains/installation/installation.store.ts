import { type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';

type Db = Kysely<Schema>;

export async function readInstallationAcrossTenants(db: Db) {
  return db.selectFrom('installation').selectAll().executeTakeFirst();
}

/** Inserts the one row unless another process was first; answers the row that is there. */
export async function insertInstallationAcrossTenants(
  db: Db,
  row: { id: string; uid_base: number; next_uid: number; pepper: Buffer; key_check: Buffer },
) {
  await db
    .insertInto('installation')
    .values(row)
    .onConflict((oc) => oc.column('only_row').doNothing())
    .execute();
  return db.selectFrom('installation').selectAll().executeTakeFirstOrThrow();
}

export async function setSealedAcrossTenants(db: Db, values: { pepper: Buffer; key_check: Buffer }): Promise<void> {
  await db.updateTable('installation').set(values).execute();
}

/** The next uid of this installation's range; after the last comes the first. */
export async function takeUidAcrossTenants(db: Db, uidsInRange: number): Promise<number> {
  const row = await db
    .updateTable('installation')
    .set({ next_uid: sql<number>`uid_base + (next_uid - uid_base + 1) % ${sql.lit(uidsInRange)}` })
    .returning(sql<number>`uid_base + (next_uid - uid_base + ${sql.lit(uidsInRange - 1)}) % ${sql.lit(uidsInRange)}`.as('uid'))
    .executeTakeFirstOrThrow();
  return row.uid;
}

export async function isUidTakenAcrossTenants(db: Db, uid: number): Promise<boolean> {
  return (await db.selectFrom('deployments').select('id').where('uid', '=', uid).executeTakeFirst()) !== undefined;
}

export async function beatAcrossTenants(db: Db, processId: string): Promise<void> {
  await db
    .insertInto('processes')
    .values({ id: processId })
    .onConflict((oc) => oc.column('id').doUpdateSet({ heartbeat_at: sql`now()` }))
    .execute();
}

export async function removeProcessAcrossTenants(db: Db, processId: string): Promise<void> {
  await db.deleteFrom('processes').where('id', '=', processId).execute();
}

/** Processes long dead are forgotten; what they left open is settled by the domains that own it. */
export async function forgetProcessesAcrossTenants(db: Db, olderThanS: number): Promise<void> {
  await db
    .deleteFrom('processes')
    .where('heartbeat_at', '<', sql<Date>`now() - make_interval(secs => ${olderThanS})`)
    .execute();
}
