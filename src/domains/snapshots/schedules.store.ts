import { type Insertable, type Kysely, type Selectable, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { SnapshotSchedulesTable } from './snapshots.table.js';

type Db = Kysely<Schema>;
export type ScheduleRow = Selectable<SnapshotSchedulesTable>;

/** What decides is the database's clock. */
export async function nowAcrossTenants(db: Db): Promise<Date> {
  const { rows } = await sql<{ now: Date }>`select now() as now`.execute(db);
  return rows[0]?.now ?? new Date();
}

export async function findSchedule(db: Db, userId: string, agentId: string): Promise<ScheduleRow | undefined> {
  return db
    .selectFrom('snapshot_schedules')
    .selectAll()
    .where('user_id', '=', userId)
    .where('agent_id', '=', agentId)
    .executeTakeFirst();
}

export async function putSchedule(
  db: Db,
  userId: string,
  row: Omit<Insertable<SnapshotSchedulesTable>, 'user_id' | 'created_at' | 'updated_at'>,
): Promise<ScheduleRow> {
  const { agent_id: _, ...values } = row;
  return db
    .insertInto('snapshot_schedules')
    .values({ ...row, user_id: userId })
    .onConflict((oc) => oc.column('agent_id').doUpdateSet({ ...values, updated_at: sql<Date>`now()` }))
    .returningAll()
    .executeTakeFirstOrThrow();
}

export async function deleteSchedule(db: Db, userId: string, agentId: string): Promise<boolean> {
  const row = await db
    .deleteFrom('snapshot_schedules')
    .where('user_id', '=', userId)
    .where('agent_id', '=', agentId)
    .returning('agent_id')
    .executeTakeFirst();
  return row !== undefined;
}

/** Some whose time has come, held until the end of the transaction; those that another process has are passed over. */
export async function takeDueAcrossTenants(db: Db, limit: number) {
  return db
    .selectFrom('snapshot_schedules as s')
    .innerJoin('agents as a', 'a.id', 's.agent_id')
    .selectAll('s')
    .select(['a.name', sql<Date>`now()`.as('now')])
    .where('s.next_at', '<=', sql<Date>`now()`)
    .orderBy('s.next_at')
    .limit(limit)
    .forUpdate('s')
    .skipLocked()
    .execute();
}

export async function setNext(db: Db, userId: string, agentId: string, nextAt: Date): Promise<void> {
  await db
    .updateTable('snapshot_schedules')
    .set({ next_at: nextAt })
    .where('user_id', '=', userId)
    .where('agent_id', '=', agentId)
    .execute();
}

/** Whether one of the agent's is still to be taken. */
export async function hasPending(db: Db, userId: string, agentId: string): Promise<boolean> {
  const row = await db
    .selectFrom('snapshots')
    .select('id')
    .where('user_id', '=', userId)
    .where('agent_id', '=', agentId)
    .where('state', '=', 'pending')
    .executeTakeFirst();
  return row !== undefined;
}
