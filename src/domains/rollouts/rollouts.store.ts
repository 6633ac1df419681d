import { type Insertable, type Kysely, type Selectable, sql, type Updateable } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { PageRequest } from '../../lib/page.js';
import type { MemberState, RolloutMembersTable, RolloutsTable } from './rollouts.table.js';

type Db = Kysely<Schema>;
export type RolloutRow = Selectable<RolloutsTable>;
/** One that runs, with for how many seconds its wave has been in hand, and ready. */
export type RunningRow = NonNullable<Awaited<ReturnType<typeof takeRunningAcrossTenants>>>;

/** All deployments that are somebody's and have no image of their own, in an order that has nothing to do with their users. */
export async function candidatesAcrossTenants(db: Db): Promise<{ id: string; rolled_image: string | null }[]> {
  return db
    .selectFrom('deployments')
    .select(['id', 'rolled_image'])
    .where('user_id', 'is not', null)
    .where('desired', '<>', 'deleted')
    .where('image', 'is', null)
    .orderBy(sql`md5(id)`)
    .execute();
}

export async function insertAcrossTenants(
  db: Db,
  row: Insertable<RolloutsTable>,
  members: Insertable<RolloutMembersTable>[],
): Promise<void> {
  await db.insertInto('rollouts').values(row).execute();
  for (let from = 0; from < members.length; from += 1_000) {
    const some = members.slice(from, from + 1_000);
    await db.insertInto('rollout_members').values(some).execute();
  }
}

/** Oldest first, as every list. */
export async function listAcrossTenants(db: Db, page: PageRequest): Promise<RolloutRow[]> {
  let query = db.selectFrom('rollouts').selectAll();
  if (page.after !== undefined) query = query.where('id', '>', page.after);
  return query
    .orderBy('id')
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
}

export async function readAcrossTenants(db: Db, id: string): Promise<RolloutRow | undefined> {
  return db.selectFrom('rollouts').selectAll().where('id', '=', id).executeTakeFirst();
}

/** The same, held until the end of the transaction. */
export async function lockAcrossTenants(db: Db, id: string): Promise<RolloutRow | undefined> {
  return db.selectFrom('rollouts').selectAll().where('id', '=', id).forUpdate().executeTakeFirst();
}

/** One that runs and that nobody else advances at this moment. */
export async function takeRunningAcrossTenants(db: Db) {
  return db
    .selectFrom('rollouts')
    .selectAll()
    .select(sql<number>`coalesce(extract(epoch from (now() - wave_at)), 0)::float8`.as('wave_s'))
    .select(sql<number | null>`extract(epoch from (now() - ready_at))::float8`.as('ready_s'))
    .where('state', '=', 'running')
    .limit(1)
    .forUpdate()
    .skipLocked()
    .executeTakeFirst();
}

export async function updateAcrossTenants(db: Db, id: string, change: Updateable<RolloutsTable>): Promise<void> {
  await db.updateTable('rollouts').set(change).where('id', '=', id).execute();
}

/** Begins a wave: from now on its time runs. */
export async function beginWaveAcrossTenants(db: Db, id: string, wave: number): Promise<void> {
  await db
    .updateTable('rollouts')
    .set({ wave, wave_at: sql<Date>`now()`, ready_at: null })
    .where('id', '=', id)
    .execute();
}

export async function noteReadyAcrossTenants(db: Db, id: string): Promise<void> {
  await db
    .updateTable('rollouts')
    .set({ ready_at: sql<Date>`now()` })
    .where('id', '=', id)
    .execute();
}

export async function endAcrossTenants(db: Db, id: string, state: RolloutRow['state'], reason: string | null): Promise<void> {
  await db
    .updateTable('rollouts')
    .set({ state, reason, ended_at: sql<Date>`now()` })
    .where('id', '=', id)
    .execute();
}

/** Members of that wave and those before, with how their deployments stand. */
export async function membersAcrossTenants(db: Db, id: string, upToWave: number) {
  return db
    .selectFrom('rollout_members as m')
    .leftJoin('deployments as d', 'd.id', 'm.deployment_id')
    .leftJoin('instances as i', (join) =>
      join.onRef('i.deployment_id', '=', 'd.id').on('i.ended_at', 'is', null).on('i.role', '=', 'current'),
    )
    .select(['m.deployment_id', 'm.wave', 'm.state as member_state', 'm.previous'])
    .select(['d.desired', 'd.state', 'd.rest', 'd.image', 'd.rolled_image', 'd.roll_failed', 'd.roll_attempts', 'd.reason'])
    .select('i.image as running_image')
    .where('m.rollout_id', '=', id)
    .where('m.wave', '<=', upToWave)
    .execute();
}

export async function setMembersAcrossTenants(db: Db, id: string, deploymentIds: string[], state: MemberState): Promise<void> {
  if (deploymentIds.length === 0) return;
  await db
    .updateTable('rollout_members')
    .set({ state })
    .where('rollout_id', '=', id)
    .where('deployment_id', 'in', deploymentIds)
    .execute();
}

export async function countsAcrossTenants(db: Db, id: string) {
  return db
    .selectFrom('rollout_members')
    .select((eb) => ['state', eb.fn.countAll().as('n'), eb.fn.max('wave').as('last')])
    .where('rollout_id', '=', id)
    .groupBy('state')
    .execute();
}

/** Turns that began since the wave did and have ended, of agents in deployments that had their turn. */
export async function turnsAcrossTenants(db: Db, id: string, wave: number): Promise<{ ended: number; failed: number }> {
  const row = await db
    .selectFrom('turns as t')
    .innerJoin('agents as a', 'a.id', 't.agent_id')
    .innerJoin('rollout_members as m', 'm.deployment_id', 'a.deployment_id')
    .innerJoin('rollouts as r', 'r.id', 'm.rollout_id')
    .select((eb) => [eb.fn.countAll().as('ended'), eb.fn.countAll().filterWhere('t.status', '=', 'failed').as('failed')])
    .where('m.rollout_id', '=', id)
    .where('m.wave', '<=', wave)
    .where('t.status', 'in', ['finished', 'failed'])
    .whereRef('t.created_at', '>=', 'r.wave_at')
    .executeTakeFirstOrThrow();
  return { ended: Number(row.ended), failed: Number(row.failed) };
}
