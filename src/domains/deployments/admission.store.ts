import { type Kysely, sql, type Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { LOOK_AGAIN } from './deployments.store.js';
import { type Lease, leasedUpdateAcrossTenants } from './work.store.js';

type Db = Kysely<Schema>;
type Trx = Transaction<Schema>;

/** The pool, where users are counted. */
export const POOL = '';
/** Any number that nothing else locks. */
const LOCK = 5_310_014;
/** After so long one that does not get up keeps nobody else from starting. */
const STARTING_FOR = sql`interval '1 minute'`;
/** The turn of the pool's: after everybody who waits. */
const LAST_TURN = 9_000_000_000_000_000;

/** Whoever decides on room decides alone, whichever process it is. */
export async function lockAcrossTenants(trx: Trx): Promise<void> {
  await sql`select pg_advisory_xact_lock(${sql.lit(LOCK)})`.execute(trx);
}

/**
 * On its way up. One whose gateway has been told its agents since its container began to run has been up: that it has lost its link, even again and
 * again, keeps nobody else from starting.
 */
const IS_STARTING = sql<boolean>`room_at > now() - ${STARTING_FOR} and state not in ('ready', 'deleting') and (rest is null or state <> 'asleep')
  and not exists (select from instances i where i.deployment_id = deployments.id and i.ended_at is null and i.applied_version > 0)`;

/**
 * What is set aside, each counted with so much at most, how much of it those hold who are to give it back, and how many of each user are starting. In
 * one statement: what is given back between two of them would be missing twice.
 */
export async function readTakenAcrossTenants(db: Db, atMostMib: number) {
  const counted = sql`least(room_mib, ${atMostMib}::int)`;
  const { rows } = await sql<{ committed: string; leaving: string; starting: Record<string, number> | null }>`
    with held as (
      select user_id, ${counted} as mib, rest = 'stopped' or desired = 'deleted' as leaves, ${IS_STARTING} as starts
      from deployments where room_mib is not null
    )
    select coalesce(sum(mib), 0) as committed, coalesce(sum(mib) filter (where leaves), 0) as leaving,
      (select jsonb_object_agg(user_id, n) from (
        select coalesce(user_id, ${POOL}) as user_id, count(*) as n from held where starts group by 1) as by_user) as starting
    from held`.execute(db);
  const { committed, leaving, starting } = rows[0]!;
  return { committedMib: Number(committed), leavingMib: Number(leaving), startingOf: new Map(Object.entries(starting ?? {})) };
}

/** Whether somebody waits who comes first; the pool never does, nor do users of whom nothing more may start. */
export async function isWaitedAcrossTenants(db: Db, atShare: readonly string[] = []): Promise<boolean> {
  const row = await queueWithout(db, atShare)
    .select('id')
    .where('queue_turn', '<', String(LAST_TURN))
    .limit(1)
    .executeTakeFirst();
  return row !== undefined;
}

function queueWithout(db: Db, atShare: readonly string[]) {
  return db
    .selectFrom('deployments')
    .where('queued_at', 'is not', null)
    .where(sql<boolean>`coalesce(user_id, ${POOL}) <> all(${atShare}::text[])`);
}

/** Sets room aside for what the lease is on; answers whether it held. */
export async function takeRoomAcrossTenants(trx: Trx, lease: Lease, roomMib: number): Promise<boolean> {
  const row = await leasedUpdateAcrossTenants(trx, lease, { room_mib: roomMib, queued_at: null }).executeTakeFirst();
  return row !== undefined;
}

/** The last turn that the owner of what waits has, and the turn that is served now. */
export async function readTurnsAcrossTenants(trx: Trx, userId: string) {
  const waiting = trx.selectFrom('deployments').where('queued_at', 'is not', null);
  const [own, first] = await Promise.all([
    waiting.select('queue_turn').where('user_id', '=', userId).orderBy('queue_turn', 'desc').limit(1).executeTakeFirst(),
    waiting.select('queue_turn').where('queue_turn', '<', String(LAST_TURN)).orderBy('queue_turn').limit(1).executeTakeFirst(),
  ]);
  return {
    ofUser: own?.queue_turn == null ? undefined : Number(own.queue_turn),
    first: first?.queue_turn == null ? undefined : Number(first.queue_turn),
  };
}

/** Puts what the lease is on into the queue, unless it is there; `turn` undefined: after everybody. */
export async function queueAcrossTenants(trx: Trx, lease: Lease, turn: number | undefined, wantMib: number): Promise<void> {
  await trx
    .updateTable('deployments')
    .set({ queued_at: sql<Date>`now()`, queue_turn: String(turn ?? LAST_TURN), queue_mib: wantMib })
    .where('id', '=', lease.deploymentId)
    .where('lease_owner', '=', lease.owner)
    .where('lease_epoch', '=', lease.epoch)
    .where('queued_at', 'is', null)
    .execute();
}

/** Those who wait, in the order of their turns, without those of some users. */
export async function readQueueAcrossTenants(db: Db, limit: number, atShare: readonly string[] = []) {
  const rows = await queueWithout(db, atShare)
    .select(['id', 'user_id', 'queue_mib'])
    .orderBy('queue_turn')
    .orderBy('queued_at')
    .orderBy('id')
    .limit(limit)
    .execute();
  return rows.map((row) => ({ id: row.id, user: row.user_id ?? POOL, wantMib: row.queue_mib ?? 0 }));
}

/** Sets room aside for one that waits, and has it looked at. */
export async function grantAcrossTenants(trx: Trx, deploymentId: string, roomMib: number): Promise<void> {
  await trx
    .updateTable('deployments')
    .set({ ...LOOK_AGAIN, room_mib: roomMib, room_at: sql<Date>`now()`, queued_at: null, queue_turn: null, queue_mib: null })
    .where('id', '=', deploymentId)
    .where('queued_at', 'is not', null)
    .execute();
}

/** Those that hold memory and are used by nobody: the pool's, then what is paused, the one first that would be stopped first. */
export async function readIdleAcrossTenants(trx: Trx, atMostMib: number, limit: number) {
  const rows = await trx
    .selectFrom('deployments')
    .select(['id', 'kind', sql<number>`least(room_mib, ${atMostMib}::int)`.as('room')])
    .where('room_mib', 'is not', null)
    .where('desired', '=', 'running')
    .where(({ or, eb }) => or([eb('rest', '=', 'paused'), eb('kind', '=', 'pool')]))
    .orderBy(sql`kind = 'pool'`, 'desc')
    .orderBy('idle_at')
    .limit(limit)
    .execute();
  return rows.map((row) => ({ id: row.id, isPool: row.kind === 'pool', roomMib: row.room }));
}

/** Has one stopped that is paused, unless somebody has woken it meanwhile, or lets one of the pool go, unless somebody has claimed it; answers which, if it did. */
export async function stopIdleAcrossTenants(trx: Trx, { id, isPool }: { id: string; isPool: boolean }) {
  const change = isPool
    ? { desired: 'deleted' as const, state: 'deleting' as const, stage: 'queued' as const }
    : { rest: 'stopped' as const, idle_at: null };
  return trx
    .updateTable('deployments')
    .set({ ...LOOK_AGAIN, ...change })
    .where('id', '=', id)
    .where(isPool ? 'kind' : 'rest', '=', isPool ? 'pool' : 'paused')
    .returning(['id', 'user_id', 'rest'])
    .executeTakeFirst();
}
