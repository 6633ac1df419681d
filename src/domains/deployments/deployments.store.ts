import { type ExpressionBuilder, type Insertable, type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type {
  ContainerLimits,
  DeploymentDesire,
  DeploymentsTable,
  DeploymentState,
  NetworkPolicy,
  Stage,
} from './deployments.table.js';

type Db = Kysely<Schema>;
/** The database, or a place within a larger statement. */
type Writer = Pick<Db, 'updateTable'>;

/** What marks a deployment for the reconciler: due now, and a wish that a pass in progress has not seen. */
export const LOOK_AGAIN = { due_at: sql<Date>`now()`, wish: sql<string>`wish + 1`, updated_at: sql<Date>`now()` };

/** When a deployment that is used now begins to rest: never where its user's tier has no idle time. */
export const IDLE_AT = sql<Date | null>`now() + make_interval(secs => (
  select t.idle_timeout_s from users u join tiers t on t.name = u.tier where u.id = deployments.user_id))`;

/**
 * Deployments to be changed, held in the order of their ids. Whatever changes several takes them so, or two that meet would wait for each other
 * without end. Not `for update`, which would make every row that refers to them wait.
 */
export function inOrderAcrossTenants(eb: ExpressionBuilder<Schema, 'deployments'>) {
  return eb.selectFrom('deployments').select('id').orderBy('id').forNoKeyUpdate();
}

/** The user's, held until the end of the transaction: first of all where it changes several of them one after the other. */
export async function hold(db: Db, userId: string): Promise<void> {
  await db.selectFrom('deployments').select('id').where('user_id', '=', userId).orderBy('id').forNoKeyUpdate().execute();
}

export async function insertDeployment(
  db: Db,
  userId: string,
  row: Omit<Insertable<DeploymentsTable>, 'user_id'>,
): Promise<void> {
  await db
    .insertInto('deployments')
    .values({ ...row, network: JSON.stringify(row.network) as never, user_id: userId, due_at: sql<Date>`now()` })
    .execute();
}

export async function findShared(db: Db, userId: string) {
  return db
    .selectFrom('deployments')
    .select(['id', 'desired'])
    .where('user_id', '=', userId)
    .where('kind', '=', 'shared')
    .where('desired', '<>', 'deleted')
    .forUpdate()
    .executeTakeFirst();
}

/** A sleeping deployment is to run: an agent that is to run comes into it. */
export async function wake(db: Db, userId: string, deploymentId: string): Promise<void> {
  await db
    .updateTable('deployments')
    .set({ ...LOOK_AGAIN, desired: 'running' })
    .where('user_id', '=', userId)
    .where('id', '=', deploymentId)
    .where('desired', '=', 'asleep')
    .execute();
}

/** The agent of the shared container that was given secrets of its own without a word that others may have them. */
export async function findKeeperOfSecrets(db: Db, userId: string): Promise<string | undefined> {
  const row = await db
    .selectFrom('agents as a')
    .innerJoin('deployments as d', 'd.id', 'a.deployment_id')
    .select('a.name')
    .where('a.user_id', '=', userId)
    .where('d.kind', '=', 'shared')
    .where('d.desired', '<>', 'deleted')
    .where((eb) => {
      const own = eb.selectFrom('secrets as s').select('s.id').whereRef('s.agent_id', '=', 'a.id');
      return eb.and([eb.exists(own), eb.not(eb.exists(own.where('s.shared_confirmed', '=', true)))]);
    })
    .executeTakeFirst();
  return row?.name;
}

/** Raises the config version and answers it. */
export async function raiseConfigVersion(db: Db, userId: string, deploymentId: string): Promise<number> {
  const row = await db
    .updateTable('deployments')
    .set({ ...LOOK_AGAIN, config_version: sql<number>`config_version + 1` })
    .where('user_id', '=', userId)
    .where('id', '=', deploymentId)
    .returning('config_version')
    .executeTakeFirstOrThrow();
  return row.config_version;
}

/**
 * Makes the deployment sleep where no agent in it is to run, and run where one is; one that is to go stays so. Raises the config version, since
 * a gateway that was up for files alone must be told that turns may run.
 */
export async function setDesire(db: Db, userId: string, deploymentId: string): Promise<number> {
  const row = await db
    .updateTable('deployments')
    .set({
      ...LOOK_AGAIN,
      config_version: sql<number>`config_version + 1`,
      desired: sql<DeploymentDesire>`case when desired = 'deleted' then 'deleted'
        when exists (select from agents where agents.deployment_id = deployments.id and agents.desired = 'running') then 'running'
        else 'asleep' end`,
    })
    .where('user_id', '=', userId)
    .where('id', '=', deploymentId)
    .returning('config_version')
    .executeTakeFirstOrThrow();
  return row.config_version;
}

/** Finds it where it rests. */
export function wakeResting(db: Writer, userId: string, deploymentId: string) {
  return (
    db
      .updateTable('deployments')
      // Whoever wakes it is still on the way: not to be overtaken by the next rest, however short the idle time.
      .set({
        ...LOOK_AGAIN,
        rest: null,
        idle_at: sql<Date | null>`case when ${IDLE_AT} is not null then greatest(${IDLE_AT}, now() + interval '10 s') end`,
      })
      .where('user_id', '=', userId)
      .where('id', '=', deploymentId)
      .where('rest', 'is not', null)
      .returning('id')
  );
}

/** Moves the end of their idle time away; answers those that rested and are to wake. */
export async function noteUseAcrossTenants(db: Db, deploymentIds: string[]) {
  const woken = await db
    .updateTable('deployments')
    .set({ ...LOOK_AGAIN, rest: null, idle_at: IDLE_AT })
    .where('id', 'in', (eb) => inOrderAcrossTenants(eb).where('id', 'in', deploymentIds).where('rest', 'is not', null))
    .returning(['id', 'user_id'])
    .execute();
  await db
    .updateTable('deployments')
    .set({ idle_at: IDLE_AT })
    .where('id', 'in', (eb) => inOrderAcrossTenants(eb).where('id', 'in', deploymentIds))
    .execute();
  return woken;
}

/** One stage further for those whose idle time is over: paused, then stopped; answers which. */
export async function restIdleAcrossTenants(db: Db, pausedS: number) {
  return db
    .updateTable('deployments')
    .set({
      ...LOOK_AGAIN,
      rest: sql<'paused' | 'stopped'>`case when rest is null then 'paused' else 'stopped' end`,
      idle_at: sql<Date>`case when rest is null then now() + make_interval(secs => ${pausedS}) end`,
    })
    .where('id', 'in', (eb) =>
      eb
        .selectFrom('deployments')
        .select('id')
        .where('idle_at', '<=', sql<Date>`now()`)
        .where('desired', '=', 'running')
        .where('state', 'in', ['ready', 'asleep'])
        .orderBy('idle_at')
        .limit(100)
        .forUpdate()
        .skipLocked(),
    )
    .returning(['id', 'user_id', 'rest'])
    .execute();
}

export async function dedicateIfAlone(db: Db, userId: string, deploymentId: string, network: NetworkPolicy): Promise<boolean> {
  const row = await db
    .updateTable('deployments')
    .set({ ...LOOK_AGAIN, kind: 'dedicated', network: JSON.stringify(network) as never })
    .where('user_id', '=', userId)
    .where('id', '=', deploymentId)
    .where((eb) =>
      eb(
        eb
          .selectFrom('agents')
          .select(({ fn }) => fn.countAll().as('n'))
          .where(({ or, eb: of }) => or([of('deployment_id', '=', deploymentId), of('moving_from', '=', deploymentId)])),
        '=',
        1,
      ),
    )
    .returning('id')
    .executeTakeFirst();
  return row !== undefined;
}

/** Answers whether there was something to do: a call that comes soon after another writes nothing. */
export async function wakeForFiles(db: Db, userId: string, deploymentId: string, seconds: number): Promise<boolean> {
  const row = await db
    .updateTable('deployments')
    .set({ ...LOOK_AGAIN, files_until: sql<Date>`now() + make_interval(secs => ${seconds})` })
    .where('user_id', '=', userId)
    .where('id', '=', deploymentId)
    .where('desired', '=', 'asleep')
    .where(({ or, eb }) =>
      or([eb('files_until', 'is', null), eb('files_until', '<', sql<Date>`now() + make_interval(secs => ${seconds / 2})`)]),
    )
    .returning('id')
    .executeTakeFirst();
  return row !== undefined;
}

/** What an agent's own deployment is made of; where its container must be another for it, it is not ready until the reconciler has looked. */
export async function reshape(
  db: Db,
  userId: string,
  deploymentId: string,
  shape: { network: NetworkPolicy; limits: ContainerLimits | null; image: string | null },
): Promise<void> {
  const limits = shape.limits === null ? null : JSON.stringify(shape.limits);
  const isNew = sql<boolean>`(limits is distinct from ${limits}::jsonb or image is distinct from ${shape.image}::text)`;
  await db
    .updateTable('deployments')
    .set({
      ...LOOK_AGAIN,
      network: JSON.stringify(shape.network) as never,
      limits: sql`${limits}::jsonb` as never,
      image: shape.image,
      state: sql<DeploymentState>`case when state = 'ready' and ${isNew} then 'deploying' else state end`,
      stage: sql<Stage>`case when state = 'ready' and ${isNew} then 'queued' else stage end`,
    })
    .where('user_id', '=', userId)
    .where('id', '=', deploymentId)
    .execute();
}

/** Wishes another container made of the same, which takes the place of the one that is. */
export async function restart(db: Db, userId: string, deploymentId: string): Promise<void> {
  await db
    .updateTable('deployments')
    .set({
      ...LOOK_AGAIN,
      restarts: sql<number>`restarts + 1`,
      state: sql<DeploymentState>`case when state = 'ready' then 'deploying' else state end`,
      stage: sql<Stage>`case when state = 'ready' then 'queued' else stage end`,
    })
    .where('user_id', '=', userId)
    .where('id', '=', deploymentId)
    .execute();
}

/** Each gets its image; answers those that are to stay. */
export async function rollAcrossTenants(db: Db, wishes: readonly RollWish[]) {
  if (wishes.length === 0) return [];
  const ids = wishes.map((wish) => wish.deploymentId);
  const images = sql`unnest(${ids}::text[], ${wishes.map((wish) => wish.image)}::text[]) as wished (id, image)`;
  return db
    .updateTable('deployments')
    .set({ ...LOOK_AGAIN, rolled_image: sql<string | null>`(select image from ${images} where wished.id = deployments.id)` })
    .where('id', 'in', (eb) => inOrderAcrossTenants(eb).where('id', 'in', ids).where('desired', '<>', 'deleted'))
    .returning(['id', 'user_id', 'rolled_image as image'])
    .execute();
}

/** The image that a deployment is rolled to; null: the usual one. */
export interface RollWish {
  deploymentId: string;
  image: string | null;
}

/** Deployments of images that are not offered any more get the usual one; answers which. */
export async function forgetImagesAcrossTenants(db: Db, offered: readonly string[]) {
  const changed: { id: string; user_id: string | null }[] = [];
  for (const column of ['image', 'rolled_image'] as const) {
    const rows = await db
      .updateTable('deployments')
      .set({ ...LOOK_AGAIN, [column]: null })
      .where('id', 'in', (eb) =>
        inOrderAcrossTenants(eb)
          .where(column, 'is not', null)
          .where(column, 'not in', [...offered]),
      )
      .returning(['id', 'user_id'])
      .execute();
    changed.push(...rows);
  }
  return changed;
}

/** Not ready any more until the reconciler has looked: whoever waits for the change must not be told that it is done. */
export async function lookAgain(db: Db, userId: string): Promise<string[]> {
  const rows = await db
    .updateTable('deployments')
    .set({
      ...LOOK_AGAIN,
      state: sql<DeploymentState>`case when state = 'ready' then 'deploying' else state end`,
      stage: sql<Stage>`case when state = 'ready' then 'queued' else stage end`,
    })
    .where('id', 'in', (eb) => inOrderAcrossTenants(eb).where('user_id', '=', userId))
    .returning('id')
    .execute();
  return rows.map((row) => row.id);
}

/** Whether no last snapshot is still to be taken from the deployment's volume. */
const NOTHING_TO_SAVE = sql<boolean>`not exists (
  select from snapshots s where s.deployment_id = deployments.id and s.state = 'pending' and s.kind = 'last')`;

/** Wishes a deployment away when no agent is left in it, nor anything to be saved; answers whether it did. */
export async function retireIfEmpty(db: Db, userId: string, deploymentId: string): Promise<boolean> {
  const row = await db
    .updateTable('deployments')
    .set({ ...LOOK_AGAIN, desired: 'deleted', state: 'deleting', stage: 'queued' })
    .where('user_id', '=', userId)
    .where('id', '=', deploymentId)
    .where(({ not, exists, selectFrom }) =>
      not(
        exists(
          selectFrom('agents')
            .select('agents.id')
            .where((eb) =>
              eb.or([
                eb('agents.deployment_id', '=', eb.ref('deployments.id')),
                eb('agents.moving_from', '=', eb.ref('deployments.id')),
              ]),
            ),
        ),
      ),
    )
    .where(NOTHING_TO_SAVE)
    .returning('id')
    .executeTakeFirst();
  return row !== undefined;
}

export async function retireAll(db: Db, userId: string): Promise<string[]> {
  const rows = await db
    .updateTable('deployments')
    .set({ ...LOOK_AGAIN, desired: 'deleted', state: 'deleting', stage: 'queued' })
    .where('id', 'in', (eb) => inOrderAcrossTenants(eb).where('user_id', '=', userId))
    .returning('id')
    .execute();
  return rows.map((row) => row.id);
}

/** The user's deployments, or these of them, with their live instance and the names of their agents. */
export async function readStatus(db: Db, userId: string, ids?: readonly string[]) {
  return db
    .selectFrom('deployments as d')
    .innerJoin('users as u', 'u.id', 'd.user_id')
    .innerJoin('tiers as t', 't.name', 'u.tier')
    .leftJoin('instances as i', (join) =>
      join.onRef('i.deployment_id', '=', 'd.id').on('i.ended_at', 'is', null).on('i.role', '=', 'current'),
    )
    .select(['d.disk', 'd.disk_size_mib', 'd.disk_pending', 'd.disk_used_mib', 'd.disk_full_at', 'd.limits'])
    .select(['t.disk_mib', 't.memory_mib', 't.cpu_millis', 'i.oom_kills', 'i.oom_at', 'i.cpu_throttled'])
    .select([
      'd.id',
      'd.kind',
      'd.desired',
      'd.state',
      'd.stage',
      'd.reason',
      'd.rest',
      'd.attempts',
      'd.stages',
      'd.due_at',
      'd.config_version',
    ])
    .select([
      'i.id as instance_id',
      'i.generation as instance_generation',
      'i.started_at as instance_started_at',
      'i.applied_version',
    ])
    .select('d.queued_at')
    .select(
      // Counted only for those that wait, up to their own place in the index.
      sql<string | null>`case when d.queued_at is not null then (select count(*) from deployments q
        where q.queued_at is not null and (q.queue_turn, q.queued_at, q.id) <= (d.queue_turn, d.queued_at, d.id)) end`.as(
        'position',
      ),
    )
    .select((eb) =>
      eb
        .selectFrom('agents as a')
        .select(sql<string[]>`coalesce(array_agg(a.name order by a.name), '{}')`.as('names'))
        .whereRef('a.deployment_id', '=', 'd.id')
        .as('agents'),
    )
    .where('d.user_id', '=', userId)
    .$if(ids !== undefined, (query) => query.where('d.id', 'in', [...(ids ?? [])]))
    .orderBy('d.id')
    .execute();
}
