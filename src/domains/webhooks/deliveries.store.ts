import { type Kysely, type Selectable, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { PageRequest } from '../../lib/page.js';
import type { WebhookAttemptsTable, WebhookDeliveriesTable } from './webhooks.table.js';

type Db = Kysely<Schema>;
export type DeliveryRow = Selectable<WebhookDeliveriesTable>;
export type AttemptRow = Selectable<WebhookAttemptsTable>;

const attempts = sql<number>`(select count(*) from webhook_attempts a where a.delivery_id = webhook_deliveries.id)::int`;

export async function listDeliveries(
  db: Db,
  userId: string,
  webhookId: string,
  status: DeliveryRow['status'] | undefined,
  page: PageRequest,
) {
  let query = db
    .selectFrom('webhook_deliveries')
    .select(['id', 'event_id', 'type', 'status', 'next_at', 'created_at', 'ended_at'])
    .select(attempts.as('attempts'))
    .where('user_id', '=', userId)
    .where('webhook_id', '=', webhookId);
  if (status !== undefined) query = query.where('status', '=', status);
  if (page.after !== undefined) query = query.where('id', '<', page.after);
  return query
    .orderBy('id', 'desc')
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
}

export async function readDelivery(db: Db, userId: string, webhookId: string, id: string) {
  return db
    .selectFrom('webhook_deliveries')
    .selectAll()
    .select(attempts.as('attempts'))
    .where('user_id', '=', userId)
    .where('webhook_id', '=', webhookId)
    .where('id', '=', id)
    .executeTakeFirst();
}

export async function readAttempts(db: Db, userId: string, deliveryId: string): Promise<AttemptRow[]> {
  return db
    .selectFrom('webhook_attempts as a')
    .innerJoin('webhook_deliveries as d', 'd.id', 'a.delivery_id')
    .selectAll('a')
    .where('d.user_id', '=', userId)
    .where('a.delivery_id', '=', deliveryId)
    .orderBy('a.n')
    .execute();
}

/** Writes down an attempt, under the next number. */
export async function insertAttempt(
  db: Db,
  userId: string,
  deliveryId: string,
  attempt: Pick<AttemptRow, 'ms' | 'status' | 'error' | 'response'>,
): Promise<AttemptRow> {
  const { ms, status, error, response } = attempt;
  const { rows } = await sql<AttemptRow>`
    insert into webhook_attempts (delivery_id, n, ms, status, error, response)
    select d.id, (select coalesce(max(n), 0) + 1 from webhook_attempts where delivery_id = d.id), ${ms}::int, ${status}::int, ${error}::text, ${response}::text
    from webhook_deliveries d where d.id = ${deliveryId} and d.user_id = ${userId}
    returning *`.execute(db);
  if (!rows[0]) throw new Error(`delivery ${deliveryId} is gone`);
  return rows[0];
}

export async function insertDelivery(
  db: Db,
  userId: string,
  row: Pick<DeliveryRow, 'id' | 'webhook_id' | 'event_id' | 'type' | 'body'> & Partial<Pick<DeliveryRow, 'status' | 'in_order'>>,
): Promise<DeliveryRow> {
  const isOpen = (row.status ?? 'pending') === 'pending';
  const now = sql<Date>`now()`;
  return db
    .insertInto('webhook_deliveries')
    .values({ ...row, user_id: userId, ...(isOpen ? { next_at: now } : { ended_at: now }) })
    .returningAll()
    .executeTakeFirstOrThrow();
}

/** Makes it due now, out of order; undefined where there is none. */
export async function replayDelivery(db: Db, userId: string, webhookId: string, id: string) {
  return db
    .updateTable('webhook_deliveries')
    .set({ status: 'pending', in_order: false, tries: 0, next_at: sql<Date>`now()`, ended_at: null })
    .where('user_id', '=', userId)
    .where('webhook_id', '=', webhookId)
    .where('id', '=', id)
    .returning('id')
    .executeTakeFirst();
}

/** Gives up on what is open, as when its webhook is disabled. */
export async function failPending(db: Db, userId: string, webhookId: string): Promise<void> {
  await db
    .updateTable('webhook_deliveries')
    .set({ status: 'failed', next_at: null, ended_at: sql<Date>`now()` })
    .where('user_id', '=', userId)
    .where('webhook_id', '=', webhookId)
    .where('status', '=', 'pending')
    .execute();
}

/** Forgets what is older, some at a time; answers how many. */
export async function pruneDeliveriesAcrossTenants(db: Db, days: number, atMost: number): Promise<number> {
  const gone = await db
    .deleteFrom('webhook_deliveries')
    .where('id', 'in', (eb) =>
      eb
        .selectFrom('webhook_deliveries')
        .select('id')
        .where('created_at', '<', sql<Date>`now() - make_interval(days => ${days})`)
        .where('status', '<>', 'pending')
        .orderBy('created_at')
        .limit(atMost),
    )
    .executeTakeFirst();
  return Number(gone.numDeletedRows);
}
