import { type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Claim, Lease } from '../../lib/dispatch.js';
import type { DeliveryRow } from './deliveries.store.js';
import type { WebhookRow } from './webhooks.store.js';

type Db = Kysely<Schema>;

/**
 * Takes webhooks that have something to do: a delivery that is due, or events that were not looked at and that wait for no delivery before them.
 * Those that another process takes are passed over.
 */
export async function claimAcrossTenants(db: Db, claim: Claim): Promise<WebhookRow[]> {
  const { processId, leaseS, atMost, perUser, of, without } = claim;
  const { rows } = await sql<WebhookRow>`
    with due as (
      select w.id, row_number() over (partition by w.user_id order by w.lease_until nulls first, w.id) as nth
      from webhooks w
      join users u on u.id = w.user_id and u.deleting_at is null
      join event_counters c on c.user_id = w.user_id
      where w.enabled and (w.lease_until is null or w.lease_until < now())
        and w.user_id <> all(${without}::text[])
        ${of === undefined ? sql`` : sql`and w.user_id = any(${of}::text[])`}
        and (
          exists (select 1 from webhook_deliveries d where d.webhook_id = w.id and d.status = 'pending' and d.next_at <= now())
          or (c.last_seq > w.position
            and not exists (select 1 from webhook_deliveries d where d.webhook_id = w.id and d.status = 'pending' and d.in_order)))
    ), taken as (
      select id from webhooks
      where id in (select id from due where nth <= ${perUser}) and (lease_until is null or lease_until < now())
      limit ${atMost} for no key update skip locked
    )
    update webhooks w set lease_by = ${processId}, lease_until = now() + make_interval(secs => ${leaseS})
    from taken where w.id = taken.id returning w.*`.execute(db);
  return rows;
}

/** Keeps the lease for as long again; undefined where it is lost, or the webhook is not to be worked on any more. */
export async function renew(db: Db, userId: string, lease: Lease, leaseS: number): Promise<WebhookRow | undefined> {
  return db
    .updateTable('webhooks')
    .set({ lease_until: sql<Date>`now() + make_interval(secs => ${leaseS})` })
    .where('user_id', '=', userId)
    .where('id', '=', lease.id)
    .where('lease_by', '=', lease.processId)
    .where('lease_until', '>', sql<Date>`now()`)
    .where('enabled', '=', true)
    .returningAll()
    .executeTakeFirst();
}

export async function release(db: Db, userId: string, lease: Lease): Promise<void> {
  await db
    .updateTable('webhooks')
    .set({ lease_by: null, lease_until: null })
    .where('user_id', '=', userId)
    .where('id', '=', lease.id)
    .where('lease_by', '=', lease.processId)
    .execute();
}

/** The webhook as it is, held until the end of the transaction, if the lease still holds. */
export async function lockLeased(db: Db, userId: string, lease: Lease): Promise<WebhookRow | undefined> {
  return db
    .selectFrom('webhooks')
    .selectAll()
    .where('user_id', '=', userId)
    .where('id', '=', lease.id)
    .where('lease_by', '=', lease.processId)
    .where('enabled', '=', true)
    .forNoKeyUpdate()
    .executeTakeFirst();
}

/** What is due, what must stay in order first. */
export async function nextDue(db: Db, userId: string, webhookId: string): Promise<DeliveryRow | undefined> {
  return db
    .selectFrom('webhook_deliveries')
    .selectAll()
    .where('user_id', '=', userId)
    .where('webhook_id', '=', webhookId)
    .where('status', '=', 'pending')
    .where('next_at', '<=', sql<Date>`now()`)
    .orderBy('in_order', 'desc')
    .orderBy('next_at')
    .limit(1)
    .executeTakeFirst();
}

/** Whether later events have to wait for one before them. */
export async function isHeldUp(db: Db, userId: string, webhookId: string): Promise<boolean> {
  const row = await db
    .selectFrom('webhook_deliveries')
    .select('id')
    .where('user_id', '=', userId)
    .where('webhook_id', '=', webhookId)
    .where('status', '=', 'pending')
    .where('in_order', '=', true)
    .limit(1)
    .executeTakeFirst();
  return row !== undefined;
}

/** What became of a delivery; `inS` where it is to be tried again. */
export async function settleDelivery(
  db: Db,
  userId: string,
  id: string,
  now: { status: DeliveryRow['status']; inS?: number; inOrder?: boolean },
): Promise<void> {
  const isOpen = now.status === 'pending';
  await db
    .updateTable('webhook_deliveries')
    .set({
      status: now.status,
      tries: sql<number>`tries + 1`,
      in_order: now.inOrder ?? false,
      next_at: isOpen ? sql<Date>`now() + make_interval(secs => ${now.inS ?? 0})` : null,
      ended_at: isOpen ? null : sql<Date>`now()`,
    })
    .where('user_id', '=', userId)
    .where('id', '=', id)
    .execute();
}

/** Notes whether the receiver works; answers whether it has failed for longer than that. */
export async function noteHealth(db: Db, userId: string, id: string, isWell: boolean, longS: number): Promise<boolean> {
  const row = await db
    .updateTable('webhooks')
    .set({ failing_since: isWell ? null : sql<Date>`coalesce(failing_since, now())` })
    .where('user_id', '=', userId)
    .where('id', '=', id)
    .returning(sql<boolean>`coalesce(failing_since <= now() - make_interval(secs => ${longS}), false)`.as('is_long'))
    .executeTakeFirst();
  return row?.is_long ?? false;
}

export async function disable(db: Db, userId: string, id: string, reason: string): Promise<void> {
  await db
    .updateTable('webhooks')
    .set({ enabled: false, disabled_reason: reason, lease_by: null, lease_until: null, updated_at: sql<Date>`now()` })
    .set((eb) => ({ version: eb('version', '+', 1) }))
    .where('user_id', '=', userId)
    .where('id', '=', id)
    .execute();
}
