import { type Kysely, type RawBuilder, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { IDLE_AT, inOrderAcrossTenants } from './deployments.store.js';
import type { DeploymentDesire, DeploymentState, InstancesTable, Stage, StageTiming } from './deployments.table.js';

type Db = Kysely<Schema>;

/** The right to work on one deployment: every write carries it and changes nothing once it is lost. */
export interface Lease {
  deploymentId: string;
  /** Null: it is in the pool. */
  userId: string | null;
  owner: string;
  epoch: string;
}

const inSeconds = (seconds: number) => sql<Date>`now() + make_interval(secs => ${seconds})`;

/** Takes up to `limit` deployments that are due and nobody's. Two processes never get the same one: the rows are locked, then leased. */
export async function claimDueAcrossTenants(db: Db, owner: string, limit: number, leaseS: number): Promise<Lease[]> {
  const rows = await db
    .updateTable('deployments')
    .set({ lease_owner: owner, lease_until: inSeconds(leaseS), lease_epoch: sql<string>`lease_epoch + 1` })
    .where('id', 'in', (eb) =>
      eb
        .selectFrom('deployments')
        .select('id')
        .where('due_at', '<=', sql<Date>`now()`)
        .where((or) => or.or([or('lease_until', 'is', null), or('lease_until', '<', sql<Date>`now()`)]))
        .orderBy('due_at')
        .limit(limit)
        .forUpdate()
        .skipLocked(),
    )
    .returning(['id', 'user_id', 'lease_epoch'])
    .execute();
  return rows.map((row) => ({ deploymentId: row.id, userId: row.user_id, owner, epoch: row.lease_epoch }));
}

export async function renewLeasesAcrossTenants(db: Db, owner: string, deploymentIds: string[], leaseS: number): Promise<void> {
  if (deploymentIds.length === 0) return;
  await db
    .updateTable('deployments')
    .set({ lease_until: inSeconds(leaseS) })
    .where('id', 'in', (eb) =>
      inOrderAcrossTenants(eb)
        .where('id', 'in', deploymentIds)
        .where('lease_owner', '=', owner)
        .where('lease_until', '>', sql<Date>`now()`),
    )
    .execute();
}

export async function dropLeasesAcrossTenants(db: Db): Promise<void> {
  await db
    .updateTable('deployments')
    .set({ lease_owner: null, lease_until: null })
    .where('id', 'in', (eb) => inOrderAcrossTenants(eb).where('lease_owner', 'is not', null))
    .execute();
}

/** What is nobody's yet has the limits of this one. */
export const POOL_TIER = 'free';

/** The deployments with their live instances and their users' limits, by id: those whose lease still holds. All leases are one owner's. */
export async function readLeasedAcrossTenants(db: Db, leases: readonly Lease[]) {
  const [owner, ids, epochs] = columnsOf(leases);
  const held = db
    .selectFrom('deployments as d')
    .leftJoin('users as u', 'u.id', 'd.user_id')
    .innerJoin('tiers as t', (join) => join.on('t.name', '=', sql<string>`coalesce(u.tier, ${POOL_TIER})`))
    .selectAll('d')
    .select(['t.memory_mib', 't.cpu_millis', 't.pids', 't.disk_mib'])
    .select(msSince('d.disk_full_at').as('disk_full_ms_ago'))
    .select(sql<number | null>`(extract(epoch from (files_until - now())) * 1000)::float8`.as('files_ms_left'))
    .select(sql<number | null>`(extract(epoch from (roll_after - now())) * 1000)::float8`.as('roll_ms_left'))
    .where('d.lease_owner', '=', owner)
    .where(sql<boolean>`(d.id, d.lease_epoch) in (select * from unnest(${ids}::text[], ${epochs}::bigint[]))`)
    .execute();
  // Nobody changes what is to be seen of them but who holds the lease.
  const living = db
    .selectFrom('instances')
    .selectAll()
    .select([msSince('started_at').as('started_ms_ago'), msSince('handing_at').as('handing_ms_ago')])
    .select(msSince(sql`coalesce(handed_at, started_at)`).as('handed_ms_ago'))
    .where(sql<boolean>`deployment_id = any(${ids}::text[])`)
    .where('ended_at', 'is', null)
    .execute();
  const [deployments, live] = await Promise.all([held, living]);
  const found = deployments.map(async (deployment) => {
    const own = live.filter((one) => one.deployment_id === deployment.id);
    const instance = own.find((one) => one.role === 'current');
    const incoming = own.find((one) => one.role === 'incoming');
    const agents = incoming ? await readAgents(db, deployment.id) : [];
    return [deployment.id, { deployment, instance, current: instance, incoming, agents }] as const;
  });
  return new Map(await Promise.all(found));
}

function columnsOf(leases: readonly Lease[]): [owner: string, ids: string[], epochs: string[]] {
  return [leases[0]?.owner ?? '', leases.map((one) => one.deploymentId), leases.map((one) => one.epoch)];
}

/** The agents whose files are in the deployment, with the incoming instance that has taken them over. */
async function readAgents(db: Db, deploymentId: string) {
  return db
    .selectFrom('agents')
    .select(['id', 'name', 'served_by'])
    .where(({ or, and, eb }) =>
      or([and([eb('deployment_id', '=', deploymentId), eb('moving_from', 'is', null)]), eb('moving_from', '=', deploymentId)]),
    )
    .execute();
}

function msSince(time: string | RawBuilder<unknown>) {
  return sql<number | null>`(extract(epoch from (now() - ${typeof time === 'string' ? sql.ref(time) : time})) * 1000)::float8`;
}

/** Columns of a deployment that the reconciler writes. */
export interface DeploymentChange {
  state?: DeploymentState;
  stage?: Stage;
  stages?: StageTiming[];
  reason?: string | null;
  attempts?: number;
  generation?: number;
  disk?: 'hard' | 'soft';
  disk_size_mib?: number;
  disk_pending?: boolean;
  /** Memory that is set aside for it; null: none any more. */
  room_mib?: number | null;
  /** Null: it does not wait for room any more. */
  queued_at?: null;
  roll_attempts?: number;
  roll_failed?: string | null;
  /** From now on; null: not at all. */
  roll_wait_ms?: number | null;
}

/** Sets columns of a leased deployment; answers whether the lease still held. One that is to go keeps saying so, whatever a pass found before. */
export async function updateLeasedAcrossTenants(db: Db, lease: Lease, change: DeploymentChange): Promise<boolean> {
  return (await leasedUpdateAcrossTenants(db, lease, change).executeTakeFirst()) !== undefined;
}

export function leasedUpdateAcrossTenants(
  db: Pick<Db, 'updateTable'>,
  lease: Lease,
  { stages, state, roll_wait_ms: rollWaitMs, room_mib: roomMib, queued_at: queuedAt, ...rest }: DeploymentChange,
) {
  const said = state && sql<DeploymentState>`case when desired = 'deleted' then 'deleting' else ${state} end`;
  return db
    .updateTable('deployments')
    .set({
      ...rest,
      ...(said ? { state: said } : {}),
      // One that gets ready begins its idle time, unless a use has.
      ...(state === 'ready' ? { idle_at: sql<Date | null>`coalesce(idle_at, ${IDLE_AT})` } : {}),
      ...(rollWaitMs === undefined ? {} : { roll_after: rollWaitMs === null ? null : inSeconds(rollWaitMs / 1000) }),
      ...(roomMib === undefined
        ? {}
        : { room_mib: roomMib, room_at: roomMib === null ? null : sql<Date>`coalesce(room_at, now())` }),
      ...(queuedAt === null ? { queued_at: null, queue_turn: null, queue_mib: null } : {}),
      ...(stages ? { stages: JSON.stringify(stages) } : {}),
      updated_at: sql<Date>`now()`,
    })
    .where('id', '=', lease.deploymentId)
    .where('lease_owner', '=', lease.owner)
    .where('lease_epoch', '=', lease.epoch)
    .returning('id');
}

/** How a pass ended: what it saw when it began, and after how long to look again (never, if undefined). */
export interface PassEnd {
  lease: Lease;
  seen: { wish: string; desired: DeploymentDesire };
  dueInMs: number | undefined;
  failed: boolean;
}

/**
 * Gives leases of one owner back; answers which. Due again at once where there was a reason to look since what was seen. After a failure only a wish to
 * be gone is such a reason: most of what is seen by then is the failure itself, and would end its pause as it begins. `skip`: those that somebody holds at
 * this moment are left out.
 */
export async function releaseAcrossTenants(db: Db, ends: readonly PassEnd[], held: 'skip' | 'wait'): Promise<Set<string>> {
  const [owner, ids, epochs] = columnsOf(ends.map(({ lease }) => lease));
  const wishes = ends.map(({ seen }) => seen.wish);
  const desires = ends.map(({ seen }) => seen.desired);
  const failures = ends.map(({ failed }) => failed);
  const dueS = ends.map(({ dueInMs }) => (dueInMs === undefined ? null : dueInMs / 1000));
  const { rows } = await sql<{ id: string }>`
    update deployments d set lease_owner = null, lease_until = null, due_at = case
      when case when ended.failed then d.desired <> ended.desired else d.wish <> ended.wish end then now()
      else now() + make_interval(secs => ended.due_s) end
    from unnest(${ids}::text[], ${epochs}::bigint[], ${wishes}::bigint[], ${desires}::text[], ${failures}::boolean[], ${dueS}::float8[])
      as ended (id, epoch, wish, desired, failed, due_s)
    where d.id = ended.id and d.lease_epoch = ended.epoch and d.lease_owner = ${owner}
      and d.id in (select id from deployments where id = any(${ids}::text[]) order by id
        for no key update ${held === 'skip' ? sql`skip locked` : sql``})
    returning d.id`.execute(db);
  return new Set(rows.map((row) => row.id));
}

/** Writes the deployment and adds its live instance: both, or neither where the lease no longer holds. Answers whether it did. */
export async function admitInstanceAcrossTenants(
  db: Db,
  lease: Lease,
  change: DeploymentChange,
  row: Pick<InstancesTable, 'id' | 'generation' | 'name' | 'spec_hash' | 'token_digest'> & {
    limits: string;
    role: 'current' | 'incoming';
    image: string;
  },
): Promise<boolean> {
  const columns = Object.keys(row) as (keyof typeof row)[];
  const made = await db
    .with('held', (qb) => leasedUpdateAcrossTenants(qb, lease, change).returning('user_id'))
    .insertInto('instances')
    .columns(['deployment_id', 'user_id', ...columns])
    .expression((eb) =>
      eb
        .selectFrom('held')
        .select((column) => ['held.id', 'held.user_id', ...columns.map((name) => column.val(row[name]).as(name))]),
    )
    .executeTakeFirst();
  return made.numInsertedOrUpdatedRows === 1n;
}

/** Sets columns of a live instance, if the lease on its deployment holds; answers whether it did. */
export async function updateInstanceAcrossTenants(
  db: Db,
  lease: Lease,
  instanceId: string,
  values: {
    token_digest?: string;
    applied_version?: number;
    started?: { runtimeAtMs: number | undefined; appliedVersion: number };
    stopped?: true;
    limits?: string;
    ended?: string;
  },
  change: DeploymentChange,
): Promise<boolean> {
  const { started, stopped, ended, ...rest } = values;
  const held = await db
    .with('held', (qb) => leasedUpdateAcrossTenants(qb, lease, change))
    .with('changed', (qb) =>
      qb
        .updateTable('instances')
        .from('held')
        .set({
          ...rest,
          ...(started
            ? {
                started_at: sql<Date>`now()`,
                stopped_at: null,
                runtime_started_at: started.runtimeAtMs ?? null,
                applied_version: started.appliedVersion,
              }
            : {}),
          // What it was told ends with it, so that no turn goes to its next life before that has been told.
          ...(stopped ? { stopped_at: sql<Date>`now()`, applied_version: 0 } : {}),
          ...(ended === undefined ? {} : { ended_at: sql<Date>`now()`, end_reason: ended }),
        })
        .where('instances.id', '=', instanceId)
        .where('instances.ended_at', 'is', null)
        .returning('instances.id'),
    )
    .selectFrom('held')
    .select('id')
    .executeTakeFirst();
  return held !== undefined;
}

/** Erases a deployment and what it was; its agents are gone by then. */
export async function eraseLeasedAcrossTenants(db: Db, lease: Lease): Promise<void> {
  await db.transaction().execute(async (trx) => {
    const held = await updateLeasedAcrossTenants(trx, lease, {});
    if (!held) return;
    await trx.deleteFrom('instances').where('deployment_id', '=', lease.deploymentId).execute();
    await trx.deleteFrom('deployments').where('id', '=', lease.deploymentId).execute();
  });
}

export async function readLiveInstancesAcrossTenants(db: Db, deploymentIds?: string[]) {
  const rows = db
    .selectFrom('instances as i')
    .innerJoin('deployments as d', 'd.id', 'i.deployment_id')
    .select([
      'i.id',
      'i.name',
      'i.deployment_id',
      'i.user_id',
      'i.token_digest',
      'i.started_at',
      'd.network',
      'd.state',
      'd.rest',
    ])
    .where('i.ended_at', 'is', null);
  return (deploymentIds ? rows.where(sql<boolean>`i.deployment_id = any(${deploymentIds}::text[])`) : rows).execute();
}

export async function readVolumesAcrossTenants(db: Db): Promise<Set<string>> {
  const rows = await db.selectFrom('deployments').select('volume').execute();
  return new Set(rows.map((row) => row.volume));
}

/** Somebody uses a deployment that was about to rest: not yet, and not before `seconds` have passed. Answers whether it was still to rest. */
export async function stayAwakeAcrossTenants(db: Db, lease: Lease, seconds: number): Promise<boolean> {
  const row = await db
    .updateTable('deployments')
    .set({ rest: null, wish: sql<string>`wish + 1`, idle_at: sql<Date>`now() + make_interval(secs => ${seconds})` })
    .where('id', '=', lease.deploymentId)
    .where('lease_owner', '=', lease.owner)
    .where('lease_epoch', '=', lease.epoch)
    .where('rest', 'is not', null)
    .returning('id')
    .executeTakeFirst();
  return row !== undefined;
}

/**
 * Marks them due, except that what failed waits out its pause: an instance that dies at once would else be made anew at once, without end. Answers which;
 * `skip`: those that somebody holds at this moment are left out.
 */
export async function lookAgainAcrossTenants(db: Db, deploymentIds: string[], held: 'skip' | 'wait' = 'wait'): Promise<string[]> {
  if (deploymentIds.length === 0) return [];
  const rows = await db
    .updateTable('deployments')
    .set({
      due_at: sql<Date>`case when state = 'failing' then coalesce(due_at, now()) else now() end`,
      wish: sql<string>`wish + 1`,
    })
    .where('id', 'in', (eb) => {
      const inOrder = inOrderAcrossTenants(eb).where('id', 'in', deploymentIds);
      return held === 'skip' ? inOrder.skipLocked() : inOrder;
    })
    .returning('id')
    .execute();
  return rows.map((row) => row.id);
}

export async function readOwnerAcrossTenants(db: Db, instanceId: string): Promise<string | null | undefined> {
  const row = await db.selectFrom('instances').select('user_id').where('id', '=', instanceId).executeTakeFirst();
  return row?.user_id;
}

export async function readNetworkAcrossTenants(db: Db, deploymentId: string) {
  const row = await db.selectFrom('deployments').select('network').where('id', '=', deploymentId).executeTakeFirst();
  return row?.network;
}

export async function noteReasonAcrossTenants(db: Db, deploymentId: string, reason: string): Promise<void> {
  await db
    .updateTable('deployments')
    .set({ reason, updated_at: sql<Date>`now()` })
    .where('id', '=', deploymentId)
    .execute();
}

export async function endPausesAcrossTenants(db: Db, reason: string): Promise<string[]> {
  const rows = await db
    .updateTable('deployments')
    .set({ due_at: sql<Date>`now()` })
    .where('id', 'in', (eb) =>
      inOrderAcrossTenants(eb)
        .where('state', 'in', ['failing', 'deleting'])
        .where('reason', 'like', `${reason}%`)
        .where('lease_owner', 'is', null),
    )
    .returning('id')
    .execute();
  return rows.map((row) => row.id);
}

export async function pruneEndedAcrossTenants(db: Db, days: number): Promise<void> {
  await db
    .deleteFrom('instances')
    .where('ended_at', '<', sql<Date>`now() - make_interval(days => ${days})`)
    .execute();
}
