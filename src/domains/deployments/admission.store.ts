import { type Kysely, sql, type Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { LOOK_AGAIN } from './deployments.store.js';
import { type Lease, leasedUpdateAcrossTenants } from './work.store.js';

type Db = Kysely<Schema>;
type Trx = Transaction<Schema>;

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
 * What is set aside, each counted with so much at most, how much of it those hold who are to give it back, and whether somebody waits; the pool's
 * are nobody. In one statement: what is given back between two of them would be missing twice.
 */
export async function readTakenAcrossTenants(db: Db, atMostMib: number) {
  const row = await db
    .selectFrom('deployments')
    .select([
      sql<string>`coalesce(sum(least(room_mib, ${atMostMib}::int)), 0)`.as('committed'),
      sql<string>`coalesce(sum(least(room_mib, ${atMostMib}::int)) filter (where rest = 'stopped' or desired = 'deleted'), 0)`.as(
        'leaving',
      ),
      sql<string>`count(*) filter (where room_at > now() - ${STARTING_FOR} and state not in ('ready', 'deleting')
        and (rest is null or state <> 'asleep'))`.as('starting'),
      sql<boolean>`exists (select from deployments where queued_at is not null and queue_turn < ${LAST_TURN})`.as('is_waited'),
    ])
    .where('room_mib', 'is not', null)
    .executeTakeFirstOrThrow();
  const { committed, leaving, starting, is_waited: isWaited } = row;
  return { committedMib: Number(committed), leavingMib: Number(leaving), starting: Number(starting), isWaited };
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

/** Those who wait, in the order of their turns. */
export async function readQueueAcrossTenants(db: Db, limit: number) {
  const rows = await db
    .selectFrom('deployments')
    .select(['id', 'queue_mib'])
    .where('queued_at', 'is not', null)
    .orderBy('queue_turn')
    .orderBy('queued_at')
    .orderBy('id')
    .limit(limit)
    .execute();
  return rows.map((row) => ({ id: row.id, wantMib: row.queue_mib ?? 0 }));
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
