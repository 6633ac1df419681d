import { type Insertable, type Kysely, type Selectable, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { PageRequest } from '../../lib/page.js';
import type { NotificationsTable } from './notifications.table.js';

type Db = Kysely<Schema>;
export type NotificationRow = Selectable<NotificationsTable>;

export async function insertNotification(
  db: Db,
  userId: string,
  row: Omit<Insertable<NotificationsTable>, 'user_id'>,
): Promise<NotificationRow> {
  return db
    .insertInto('notifications')
    .values({ ...row, user_id: userId })
    .returningAll()
    .executeTakeFirstOrThrow();
}

/**
 * The notification that another happening is to be added to: one of the same rule and key that is young enough, or the rule's last one where it
 * has made as many within an hour as it may. Undefined: it is worth one of its own.
 */
export async function findToAddTo(
  db: Db,
  userId: string,
  { ruleId, key, dedupeS, hourly }: { ruleId: string; key: string; dedupeS: number; hourly: number },
): Promise<string | undefined> {
  const { rows } = await sql<{ id: string }>`
    with recent as (
      select id, dedupe_key, created_at from notifications
      where rule_id = ${ruleId} and user_id = ${userId}
        and created_at > now() - make_interval(secs => ${Math.max(dedupeS, 3_600)})
    )
    select id from recent
    where (dedupe_key = ${key} and created_at > now() - make_interval(secs => ${dedupeS}))
      or (select count(*) from recent where created_at > now() - interval '1 hour') >= ${hourly}
    order by (dedupe_key = ${key}) desc, id desc limit 1`.execute(db);
  return rows[0]?.id;
}

export async function addToNotification(db: Db, userId: string, id: string, count: number): Promise<void> {
  await db
    .updateTable('notifications')
    .set({ count: sql<number>`count + ${count}::int`, last_at: sql<Date>`clock_timestamp()` })
    .where('user_id', '=', userId)
    .where('id', '=', id)
    .execute();
}

/** The newest first; one more than `limit` where there are more. */
export async function listNotifications(
  db: Db,
  userId: string,
  isUnread: boolean,
  page: PageRequest,
): Promise<NotificationRow[]> {
  let query = db.selectFrom('notifications').selectAll().where('user_id', '=', userId);
  if (isUnread) query = query.where('read_at', 'is', null);
  if (page.after !== undefined) query = query.where('id', '<', page.after);
  return query
    .orderBy('id', 'desc')
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
}

export async function readNotification(db: Db, userId: string, id: string): Promise<NotificationRow | undefined> {
  return db.selectFrom('notifications').selectAll().where('user_id', '=', userId).where('id', '=', id).executeTakeFirst();
}

export async function countUnread(db: Db, userId: string): Promise<number> {
  const row = await db
    .selectFrom('notifications')
    .select((eb) => eb.fn.countAll().as('n'))
    .where('user_id', '=', userId)
    .where('read_at', 'is', null)
    .executeTakeFirstOrThrow();
  return Number(row.n);
}

/** Marks it as read, once; undefined where there is none. */
export async function markRead(db: Db, userId: string, id: string): Promise<NotificationRow | undefined> {
  return db
    .updateTable('notifications')
    .set({ read_at: sql<Date>`coalesce(read_at, now())` })
    .where('user_id', '=', userId)
    .where('id', '=', id)
    .returningAll()
    .executeTakeFirst();
}

/** Marks all of now as read; answers how many were not. */
export async function markAllRead(db: Db, userId: string): Promise<number> {
  const done = await db
    .updateTable('notifications')
    .set({ read_at: sql<Date>`now()` })
    .where('user_id', '=', userId)
    .where('read_at', 'is', null)
    .executeTakeFirst();
  return Number(done.numUpdatedRows);
}

/** Forgets what is older, some at a time; answers how many. */
export async function pruneNotificationsAcrossTenants(db: Db, days: number, atMost: number): Promise<number> {
  const gone = await db
    .deleteFrom('notifications')
    .where('id', 'in', (eb) =>
      eb
        .selectFrom('notifications')
        .select('id')
        .where('created_at', '<', sql<Date>`now() - make_interval(days => ${days})`)
        .orderBy('created_at')
        .limit(atMost),
    )
    .executeTakeFirst();
  return Number(gone.numDeletedRows);
}

/** All that there is of a user: what goes with a row it belongs to is not named. */
export async function eraseNotifications(db: Db, userId: string): Promise<void> {
  await db.deleteFrom('notification_rules').where('user_id', '=', userId).execute();
  await db.deleteFrom('notifications').where('user_id', '=', userId).execute();
  await db.deleteFrom('notification_channels').where('user_id', '=', userId).execute();
  await db.deleteFrom('notification_readers').where('user_id', '=', userId).execute();
  await db.deleteFrom('notification_mails').where('user_id', '=', userId).execute();
}
