import { type Kysely, type Selectable, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Claim, Lease } from '../../lib/dispatch.js';
import type { ChannelRow } from './channels.store.js';
import type { NotificationDeliveriesTable } from './notifications.table.js';

type Db = Kysely<Schema>;
export type DeliveryRow = Selectable<NotificationDeliveriesTable>;

/** The channels that notifications of a rule go out by now, each with how many went out by it within the hour. */
export async function channelsOfRule(db: Db, userId: string, ruleId: string): Promise<{ id: string; recent: number }[]> {
  return (
    db
      .selectFrom('notification_rule_channels as r')
      .innerJoin('notification_channels as c', 'c.id', 'r.channel_id')
      .select([
        'c.id',
        sql<number>`(select count(*) from notification_deliveries d
        where d.channel_id = c.id and d.created_at > now() - interval '1 hour')::int`.as('recent'),
      ])
      .where('r.user_id', '=', userId)
      .where('r.rule_id', '=', ruleId)
      .where('c.enabled', '=', true)
      .where('c.confirmed_at', 'is not', null)
      .orderBy('c.id')
      // One that is being deleted is waited for, and not found then.
      .forKeyShare('c')
      .execute()
  );
}

/** `error`: it will not be sent, for that reason. */
export async function insertDelivery(
  db: Db,
  userId: string,
  row: Pick<DeliveryRow, 'id' | 'notification_id' | 'channel_id' | 'error'>,
): Promise<void> {
  const now = sql<Date>`now()`;
  const state = row.error === null ? { next_at: now } : { status: 'failed' as const, ended_at: now };
  await db
    .insertInto('notification_deliveries')
    .values({ ...row, user_id: userId, ...state })
    .execute();
}

/** Takes channels that have something to send. Those that another process takes are passed over. */
export async function claimAcrossTenants(db: Db, claim: Claim): Promise<ChannelRow[]> {
  const { processId, leaseS, atMost, perUser, of, without } = claim;
  const { rows } = await sql<ChannelRow>`
    with waiting as (
      select distinct d.channel_id as id from notification_deliveries d
      where d.status = 'pending' and d.next_at <= now()
        ${of === undefined ? sql`` : sql`and d.user_id = any(${of}::text[])`}
    ), due as (
      select c.id, row_number() over (partition by c.user_id order by c.lease_until nulls first, c.id) as nth
      from waiting w
      join notification_channels c on c.id = w.id
      join users u on u.id = c.user_id and u.deleting_at is null
      where c.enabled and c.confirmed_at is not null and (c.lease_until is null or c.lease_until < now())
        and c.user_id <> all(${without}::text[])
    ), taken as (
      select id from notification_channels
      where id in (select id from due where nth <= ${perUser}) and (lease_until is null or lease_until < now())
      limit ${atMost} for no key update skip locked
    )
    update notification_channels c set lease_by = ${processId}, lease_until = now() + make_interval(secs => ${leaseS})
    from taken where c.id = taken.id returning c.*`.execute(db);
  return rows;
}

/** Keeps the lease for as long again, and answers the channel as it is; undefined where it is lost, or nothing is to be sent there any more. */
export async function renew(db: Db, userId: string, lease: Lease, leaseS: number): Promise<ChannelRow | undefined> {
  return db
    .updateTable('notification_channels')
    .set({ lease_until: sql<Date>`now() + make_interval(secs => ${leaseS})` })
    .where('user_id', '=', userId)
    .where('id', '=', lease.id)
    .where('lease_by', '=', lease.processId)
    .where('lease_until', '>', sql<Date>`now()`)
    .where('enabled', '=', true)
    .where('confirmed_at', 'is not', null)
    .returningAll()
    .executeTakeFirst();
}

export async function release(db: Db, userId: string, lease: Lease): Promise<void> {
  await db
    .updateTable('notification_channels')
    .set({ lease_by: null, lease_until: null })
    .where('user_id', '=', userId)
    .where('id', '=', lease.id)
    .where('lease_by', '=', lease.processId)
    .execute();
}

/** Whether the lease still holds; the channel is held until the end of the transaction. */
export async function lockLeased(db: Db, userId: string, lease: Lease): Promise<boolean> {
  const row = await db
    .selectFrom('notification_channels')
    .select('id')
    .where('user_id', '=', userId)
    .where('id', '=', lease.id)
    .where('lease_by', '=', lease.processId)
    .where('enabled', '=', true)
    .forNoKeyUpdate()
    .executeTakeFirst();
  return row !== undefined;
}

/** `isQuiet`: of what is critical alone, whatever else has come meanwhile. */
export async function nextDue(db: Db, userId: string, channelId: string, isQuiet: boolean): Promise<DeliveryRow | undefined> {
  let query = db
    .selectFrom('notification_deliveries')
    .selectAll()
    .where('user_id', '=', userId)
    .where('channel_id', '=', channelId)
    .where('status', '=', 'pending')
    .where('next_at', '<=', sql<Date>`now()`);
  if (isQuiet) {
    query = query.where('notification_id', 'in', (eb) =>
      eb.selectFrom('notifications').select('id').where('user_id', '=', userId).where('severity', '=', 'critical'),
    );
  }
  return query.orderBy('next_at').orderBy('id').limit(1).executeTakeFirst();
}

/** Has what is due at a quiet time wait; `critical`: that too. */
export async function postpone(db: Db, userId: string, channelId: string, inS: number, critical: boolean): Promise<void> {
  let query = db
    .updateTable('notification_deliveries')
    .set({ next_at: sql<Date>`now() + make_interval(secs => ${inS})` })
    .where('user_id', '=', userId)
    .where('channel_id', '=', channelId)
    .where('status', '=', 'pending')
    .where('next_at', '<=', sql<Date>`now()`);
  if (!critical) {
    query = query.where('notification_id', 'in', (eb) =>
      eb.selectFrom('notifications').select('id').where('user_id', '=', userId).where('severity', '<>', 'critical'),
    );
  }
  await query.execute();
}

/** What became of a delivery; `inS` where it is to be tried again. */
export async function settleDelivery(
  db: Db,
  userId: string,
  id: string,
  now: { status: DeliveryRow['status']; error: string | null; inS?: number },
): Promise<void> {
  const isOpen = now.status === 'pending';
  await db
    .updateTable('notification_deliveries')
    .set({
      status: now.status,
      error: now.error,
      tries: sql<number>`tries + 1`,
      next_at: isOpen ? sql<Date>`now() + make_interval(secs => ${now.inS ?? 0})` : null,
      ended_at: isOpen ? null : sql<Date>`now()`,
    })
    .where('user_id', '=', userId)
    .where('id', '=', id)
    .where('status', '=', 'pending')
    .execute();
}

/** Gives up on what is open, for that reason. */
export async function failPending(db: Db, userId: string, channelId: string, reason: string): Promise<void> {
  await db
    .updateTable('notification_deliveries')
    .set({
      status: 'failed',
      next_at: null,
      ended_at: sql<Date>`now()`,
      error: sql<string>`coalesce(error, ${reason})`,
    })
    .where('user_id', '=', userId)
    .where('channel_id', '=', channelId)
    .where('status', '=', 'pending')
    .execute();
}

/** Notes whether the channel works; answers whether it has failed for longer than that. */
export async function noteHealth(db: Db, userId: string, channelId: string, isWell: boolean, longS: number): Promise<boolean> {
  const row = await db
    .updateTable('notification_channels')
    .set({ failing_since: isWell ? null : sql<Date>`coalesce(failing_since, now())` })
    .where('user_id', '=', userId)
    .where('id', '=', channelId)
    .returning(sql<boolean>`coalesce(failing_since <= now() - make_interval(secs => ${longS}), false)`.as('is_long'))
    .executeTakeFirst();
  return row?.is_long ?? false;
}

export async function disable(db: Db, userId: string, channelId: string, reason: string): Promise<void> {
  await db
    .updateTable('notification_channels')
    .set({ enabled: false, disabled_reason: reason, lease_by: null, lease_until: null, updated_at: sql<Date>`now()` })
    .set((eb) => ({ version: eb('version', '+', 1) }))
    .where('user_id', '=', userId)
    .where('id', '=', channelId)
    .execute();
}

/** Of a notification: what became of it on each channel, in the order of the channels. */
export async function deliveriesOf(db: Db, userId: string, notificationId: string): Promise<DeliveryRow[]> {
  return db
    .selectFrom('notification_deliveries')
    .selectAll()
    .where('user_id', '=', userId)
    .where('notification_id', '=', notificationId)
    .orderBy('channel_id')
    .execute();
}
