import { type Kysely, sql, type Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { LOOK_AGAIN } from './deployments.store.js';
import type { DeploymentState, Stage } from './deployments.table.js';

type Db = Kysely<Schema>;

/** Takes up to `limit` that run and are due to be measured; nobody else takes them before `everyS` have passed, or a sixth of it where the disk is full. */
export async function claimToMeasureAcrossTenants(db: Db, limit: number, everyS: number) {
  const taken = await db
    .updateTable('deployments')
    .set({
      measure_at: sql<Date>`now() + make_interval(secs => ${everyS}::float8 / case when disk_full_at is null then 1 else 6 end)`,
    })
    .where('id', 'in', (eb) =>
      eb
        .selectFrom('deployments')
        .select('id')
        .where('state', '=', 'ready')
        .where('rest', 'is', null)
        .where((or) => or.or([or('measure_at', 'is', null), or('measure_at', '<=', sql<Date>`now()`)]))
        .orderBy('measure_at', (order) => order.asc().nullsFirst())
        .limit(limit)
        .forUpdate()
        .skipLocked(),
    )
    .returning('id')
    .execute();
  if (taken.length === 0) return [];
  return db
    .selectFrom('deployments as d')
    .innerJoin('users as u', 'u.id', 'd.user_id')
    .innerJoin('tiers as t', 't.name', 'u.tier')
    .innerJoin('instances as i', (join) =>
      join.onRef('i.deployment_id', '=', 'd.id').on('i.ended_at', 'is', null).on('i.role', '=', 'current'),
    )
    .select(['d.id', 'd.volume', 'd.disk', 'd.disk_used_mib', 'd.disk_full_at', 'u.id as user_id', 't.disk_mib'])
    .select(['i.id as instance_id', 'i.name as instance_name', 'i.cpu_throttled'])
    .select((eb) => eb.selectFrom('agents').select('name').whereRef('deployment_id', '=', 'd.id').limit(1).as('agent'))
    .where(
      'd.id',
      'in',
      taken.map(({ id }) => id),
    )
    .execute();
}

export type ToMeasure = Awaited<ReturnType<typeof claimToMeasureAcrossTenants>>[number];

export async function writeDiskUsed(db: Db, userId: string, deploymentId: string, usedMib: number): Promise<void> {
  await db
    .updateTable('deployments')
    .set({ disk_used_mib: usedMib })
    .where('user_id', '=', userId)
    .where('id', '=', deploymentId)
    .execute();
}

/**
 * Notes that the disk is full, or is not any more, unless that is noted. Where turns depend on it the gateway is to be told, and nothing is ready
 * before it was.
 */
export async function writeDiskFull(
  trx: Transaction<Schema>,
  userId: string,
  deploymentId: string,
  isFull: boolean,
): Promise<boolean> {
  const row = await trx
    .updateTable('deployments')
    .set({
      ...LOOK_AGAIN,
      disk_full_at: isFull ? sql<Date>`now()` : null,
      config_version: sql<number>`config_version + case when disk = 'soft' then 1 else 0 end`,
      state: sql<DeploymentState>`case when disk = 'soft' and state = 'ready' then 'deploying' else state end`,
      stage: sql<Stage>`case when disk = 'soft' and state = 'ready' then 'queued' else stage end`,
    })
    .where('user_id', '=', userId)
    .where('id', '=', deploymentId)
    .where('desired', '<>', 'deleted')
    .where('disk_full_at', isFull ? 'is' : 'is not', null)
    .returning('id')
    .executeTakeFirst();
  return row !== undefined;
}

export async function writeThrottled(db: Db, userId: string, instanceId: string, share: number): Promise<void> {
  await db
    .updateTable('instances')
    .set({ cpu_throttled: share })
    .where('user_id', '=', userId)
    .where('id', '=', instanceId)
    .where('ended_at', 'is', null)
    .execute();
}

/** One more process was killed for want of memory. Every process of Berth hears of it, so what comes within a second is taken for the same. */
export async function countOomAcrossTenants(db: Db, instanceId: string): Promise<void> {
  await db
    .updateTable('instances')
    .set({ oom_kills: sql<number>`oom_kills + 1`, oom_at: sql<Date>`now()` })
    .where('id', '=', instanceId)
    .where(({ or, eb }) => or([eb('oom_at', 'is', null), eb('oom_at', '<', sql<Date>`now() - interval '1 s'`)]))
    .execute();
}
