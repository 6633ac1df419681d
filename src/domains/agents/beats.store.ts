import { type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';

type Db = Kysely<Schema>;

/** Goes into every change of an agent after which it may be woken otherwise. */
export const BEAT_CHANGED = { beat_wish: sql<string>`beat_wish + 1` };

/** Of one agent, or of all of the user. */
export async function raiseBeatWish(db: Db, userId: string, agentId: string | null): Promise<void> {
  let query = db.updateTable('agents').set(BEAT_CHANGED).where('user_id', '=', userId);
  if (agentId !== null) query = query.where('id', '=', agentId);
  await query.execute();
}

/** Whether the agent is still as it was at that wish; if so it is noted as decided. */
export async function notePlanned(db: Db, userId: string, agentId: string, wish: string): Promise<boolean> {
  const row = await db
    .updateTable('agents')
    .set({ beat_planned: wish })
    .where('user_id', '=', userId)
    .where('id', '=', agentId)
    .where('beat_wish', '=', wish)
    .returning('id')
    .executeTakeFirst();
  return row !== undefined;
}

/** Agents whose heartbeat has to be decided, or decided anew. */
export async function unplannedAcrossTenants(db: Db, limit: number) {
  return db
    .selectFrom('agents')
    .select(['id', 'user_id', 'desired', 'beat_wish', sql<Date>`now()`.as('now')])
    .whereRef('beat_wish', '<>', 'beat_planned')
    .orderBy('id')
    .limit(limit)
    .execute();
}
