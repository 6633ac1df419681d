import { type Insertable, type Kysely, type Selectable, sql, type Updateable } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { PageRequest } from '../../lib/page.js';
import type { WebhooksTable } from './webhooks.table.js';

type Db = Kysely<Schema>;
export type WebhookRow = Selectable<WebhooksTable>;

/** The user, held against being deleted and against another's count of its webhooks. */
export async function lockUser(db: Db, userId: string) {
  return db
    .selectFrom('users')
    .select(['id', 'data_key'])
    .where('id', '=', userId)
    .where('deleting_at', 'is', null)
    .forNoKeyUpdate()
    .executeTakeFirst();
}

export async function countWebhooks(db: Db, userId: string): Promise<number> {
  const row = await db
    .selectFrom('webhooks')
    .select((eb) => eb.fn.countAll().as('n'))
    .where('user_id', '=', userId)
    .executeTakeFirstOrThrow();
  return Number(row.n);
}

export async function insertWebhook(
  db: Db,
  userId: string,
  row: Omit<Insertable<WebhooksTable>, 'user_id'>,
): Promise<WebhookRow> {
  return db
    .insertInto('webhooks')
    .values({ ...row, user_id: userId })
    .returningAll()
    .executeTakeFirstOrThrow();
}

export async function listWebhooks(db: Db, userId: string, page: PageRequest): Promise<WebhookRow[]> {
  let query = db.selectFrom('webhooks').selectAll().where('user_id', '=', userId);
  if (page.after !== undefined) query = query.where('id', '>', page.after);
  return query
    .orderBy('id')
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
}

export async function readWebhook(db: Db, userId: string, id: string): Promise<WebhookRow | undefined> {
  return db.selectFrom('webhooks').selectAll().where('user_id', '=', userId).where('id', '=', id).executeTakeFirst();
}

/** Changes it if it is still at `version` (any, if undefined), and makes it a version more. `overlapS`: how long the old secret holds. */
export async function updateWebhook(
  db: Db,
  userId: string,
  id: string,
  { overlapS, ...change }: Updateable<WebhooksTable> & { overlapS?: number },
  version?: number,
): Promise<WebhookRow | undefined> {
  let query = db
    .updateTable('webhooks')
    .set(overlapS === undefined ? {} : { old_secret_until: sql<Date>`now() + make_interval(secs => ${overlapS})` })
    .set({ ...change, version: sql<number>`version + 1`, updated_at: sql<Date>`now()` })
    .where('user_id', '=', userId)
    .where('id', '=', id);
  if (version !== undefined) query = query.where('version', '=', version);
  return query.returningAll().executeTakeFirst();
}

export async function deleteWebhook(db: Db, userId: string, id: string): Promise<boolean> {
  const gone = await db
    .deleteFrom('webhooks')
    .where('user_id', '=', userId)
    .where('id', '=', id)
    .returning('id')
    .executeTakeFirst();
  return gone !== undefined;
}

export async function eraseWebhooks(db: Db, userId: string): Promise<void> {
  await db.deleteFrom('webhooks').where('user_id', '=', userId).execute();
}

/** Sets where a webhook goes on: it starts with what happens from now on. */
export async function setPosition(db: Db, userId: string, id: string, position: number): Promise<void> {
  await db.updateTable('webhooks').set({ position }).where('user_id', '=', userId).where('id', '=', id).execute();
}

export async function readDataKey(db: Db, userId: string): Promise<Buffer | undefined> {
  const row = await db.selectFrom('users').select('data_key').where('id', '=', userId).executeTakeFirst();
  return row?.data_key;
}
