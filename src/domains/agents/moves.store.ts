import { type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';

type Db = Kysely<Schema>;

/** An agent whose files are still in another deployment. */
export type Move = Awaited<ReturnType<typeof claimAcrossTenants>>[number];

/** Takes up to `limit` agents that move and that nobody works on, for `seconds`. */
export async function claimAcrossTenants(db: Db, limit: number, seconds: number) {
  return db
    .updateTable('agents')
    .set({ moving_until: sql<Date>`now() + make_interval(secs => ${seconds})` })
    .where('id', 'in', (eb) =>
      eb
        .selectFrom('agents')
        .select('id')
        .where('moving_from', 'is not', null)
        .where(({ or, eb: of }) => or([of('moving_until', 'is', null), of('moving_until', '<', sql<Date>`now()`)]))
        .orderBy('id')
        .limit(limit)
        .forUpdate()
        .skipLocked(),
    )
    .returning(['id', 'name', 'user_id', 'deployment_id', sql<string>`moving_from`.as('moving_from')])
    .returning(sql<string>`coalesce(incarnation, id)`.as('incarnation'))
    .execute();
}

/** Nobody else takes the move up for so long. */
export async function hold(db: Db, userId: string, agentId: string, seconds: number): Promise<void> {
  await db
    .updateTable('agents')
    .set({ moving_until: sql<Date>`now() + make_interval(secs => ${seconds})` })
    .where('user_id', '=', userId)
    .where('id', '=', agentId)
    .execute();
}

/** The instance of each deployment that lives and has been told its agents, by deployment. */
export async function liveInstances(db: Db, userId: string, deploymentIds: string[]): Promise<Map<string, string>> {
  const rows = await db
    .selectFrom('instances')
    .select(['id', 'deployment_id'])
    .where('user_id', '=', userId)
    .where('deployment_id', 'in', deploymentIds)
    .where('ended_at', 'is', null)
    .where('role', '=', 'current')
    .where('applied_version', '>', 0)
    .execute();
  return new Map(rows.map((row) => [row.deployment_id, row.id]));
}

/** Ends a move that is still this one; answers whether it was. */
export async function arrive(
  db: Db,
  userId: string,
  { id, deployment_id, moving_from }: Move,
  version: number,
): Promise<boolean> {
  const row = await db
    .updateTable('agents')
    .set({ moving_from: null, moving_until: null, config_version: version, updated_at: sql<Date>`now()` })
    .where('user_id', '=', userId)
    .where('id', '=', id)
    .where('deployment_id', '=', deployment_id)
    .where('moving_from', '=', moving_from)
    .returning('id')
    .executeTakeFirst();
  return row !== undefined;
}
