import { type Insertable, type Kysely, type Selectable, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { PageRequest } from '../../lib/page.js';
import type { RestoresTable } from './snapshots.table.js';

type Db = Kysely<Schema>;
export type RestoreRow = Selectable<RestoresTable>;

export async function insertRestore(
  db: Db,
  userId: string,
  row: Pick<Insertable<RestoresTable>, 'id' | 'agent_id' | 'snapshot_id' | 'before_id' | 'kind' | 'actor'> & {
    settings: object | null;
  },
): Promise<RestoreRow> {
  const settings = row.settings === null ? null : JSON.stringify(row.settings);
  return db
    .insertInto('restores')
    .values({ ...row, user_id: userId, settings: settings as never })
    .returningAll()
    .executeTakeFirstOrThrow();
}

export async function findRestore(db: Db, userId: string, agentId: string, id: string): Promise<RestoreRow | undefined> {
  return db
    .selectFrom('restores')
    .selectAll()
    .where('user_id', '=', userId)
    .where('agent_id', '=', agentId)
    .where('id', '=', id)
    .executeTakeFirst();
}

/** Newest first. */
export async function listRestores(db: Db, userId: string, agentId: string, page: PageRequest): Promise<RestoreRow[]> {
  let query = db.selectFrom('restores').selectAll().where('user_id', '=', userId).where('agent_id', '=', agentId);
  if (page.after !== undefined) query = query.where('id', '<', page.after);
  return query
    .orderBy('id', 'desc')
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
}

/** The settings were given to the agent; what of them was left out is said. */
export async function settingsGiven(db: Db, userId: string, id: string, leftOut: object[]): Promise<void> {
  await db
    .updateTable('restores')
    .set({ settings: null, left_out: JSON.stringify(leftOut) as never })
    .where('user_id', '=', userId)
    .where('id', '=', id)
    .execute();
}

/** Ends it, if it is still to be done; answers whether it was. */
export async function endRestore(
  db: Db,
  userId: string,
  id: string,
  end: { state: 'done' | 'failed'; reason: string | null; turnsRemoved: number | null },
): Promise<boolean> {
  const row = await db
    .updateTable('restores')
    .set({
      state: end.state,
      reason: end.reason,
      turns_removed: end.turnsRemoved,
      settings: null,
      held_until: null,
      ended_at: sql<Date>`now()`,
    })
    .where('user_id', '=', userId)
    .where('id', '=', id)
    .where('state', '=', 'pending')
    .returning('id')
    .executeTakeFirst();
  return row !== undefined;
}

/** What could not be had from the beginning. */
export async function noteLeftOut(db: Db, userId: string, id: string, leftOut: object[]): Promise<void> {
  await db
    .updateTable('restores')
    .set({ left_out: JSON.stringify(leftOut) as never })
    .where('user_id', '=', userId)
    .where('id', '=', id)
    .execute();
}
