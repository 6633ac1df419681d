import { type Insertable, type Kysely, type Selectable, sql, type Updateable } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { PageRequest } from '../../lib/page.js';
import type { NotificationChannelsTable, NotificationMailsTable } from './notifications.table.js';

type Db = Kysely<Schema>;
export type ChannelRow = Selectable<NotificationChannelsTable>;

/** The user, held against being deleted and against another's count of what it has. */
export async function lockUser(db: Db, userId: string) {
  return db
    .selectFrom('users')
    .select(['id', 'data_key'])
    .where('id', '=', userId)
    .where('deleting_at', 'is', null)
    .forNoKeyUpdate()
    .executeTakeFirst();
}

export async function readDataKey(db: Db, userId: string): Promise<Buffer | undefined> {
  const row = await db.selectFrom('users').select('data_key').where('id', '=', userId).executeTakeFirst();
  return row?.data_key;
}

export async function countChannels(db: Db, userId: string): Promise<number> {
  const row = await db
    .selectFrom('notification_channels')
    .select((eb) => eb.fn.countAll().as('n'))
    .where('user_id', '=', userId)
    .executeTakeFirstOrThrow();
  return Number(row.n);
}

export async function insertChannel(
  db: Db,
  userId: string,
  row: Omit<Insertable<NotificationChannelsTable>, 'user_id' | 'confirmed_at'>,
): Promise<ChannelRow> {
  return db
    .insertInto('notification_channels')
    .values({ ...row, user_id: userId, confirmed_at: row.kind === 'email' ? null : sql<Date>`now()` })
    .returningAll()
    .executeTakeFirstOrThrow();
}

export async function listChannels(db: Db, userId: string, page: PageRequest): Promise<ChannelRow[]> {
  let query = db.selectFrom('notification_channels').selectAll().where('user_id', '=', userId);
  if (page.after !== undefined) query = query.where('id', '>', page.after);
  return query
    .orderBy('id')
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
}

export async function readChannel(db: Db, userId: string, id: string): Promise<ChannelRow | undefined> {
  return db.selectFrom('notification_channels').selectAll().where('user_id', '=', userId).where('id', '=', id).executeTakeFirst();
}

/** Changes it if it is still at `version` (any, if undefined), and makes it a version more. */
export async function updateChannel(
  db: Db,
  userId: string,
  id: string,
  change: Updateable<NotificationChannelsTable>,
  version?: number,
): Promise<ChannelRow | undefined> {
  let query = db
    .updateTable('notification_channels')
    .set({ ...change, version: sql<number>`version + 1`, updated_at: sql<Date>`now()` })
    .where('user_id', '=', userId)
    .where('id', '=', id);
  if (version !== undefined) query = query.where('version', '=', version);
  return query.returningAll().executeTakeFirst();
}

export async function deleteChannel(db: Db, userId: string, id: string): Promise<boolean> {
  const gone = await db.deleteFrom('notification_channels').where('user_id', '=', userId).where('id', '=', id).executeTakeFirst();
  return gone.numDeletedRows === 1n;
}

// ---- codes, and mails that are asked for by hand -----------------------------------------------------------------------------

/** Keeps a code that is good for so long, and can be guessed at anew. */
export async function setCode(db: Db, userId: string, id: string, code: Buffer, goodS: number): Promise<void> {
  await db
    .updateTable('notification_channels')
    .set({ code, code_until: sql<Date>`now() + make_interval(secs => ${goodS})`, code_tries: 0 })
    .where('user_id', '=', userId)
    .where('id', '=', id)
    .execute();
}

/** Counts a guess at a code that is still good, and holds the channel; undefined where there is none to guess at any more. */
export async function takeGuess(db: Db, userId: string, id: string, triesAtMost: number): Promise<ChannelRow | undefined> {
  return db
    .updateTable('notification_channels')
    .set({ code_tries: sql<number>`code_tries + 1` })
    .where('user_id', '=', userId)
    .where('id', '=', id)
    .where('code', 'is not', null)
    .where('code_until', '>', sql<Date>`now()`)
    .where('code_tries', '<', triesAtMost)
    .returningAll()
    .executeTakeFirst();
}

/** Takes the address as confirmed, if it is still the one that the code was for. */
export async function confirmChannel(db: Db, userId: string, id: string, targetVersion: number): Promise<ChannelRow | undefined> {
  return db
    .updateTable('notification_channels')
    .set({ confirmed_at: sql<Date>`now()`, code: null, code_until: null, updated_at: sql<Date>`now()` })
    .set((eb) => ({ version: eb('version', '+', 1) }))
    .where('user_id', '=', userId)
    .where('id', '=', id)
    .where('target_version', '=', targetVersion)
    .returningAll()
    .executeTakeFirst();
}

/** How many mails of that purpose went out in the last so many seconds: by the user's wish, and to that address by anybody's. */
export async function countMails(
  db: Db,
  userId: string,
  { purpose, address_digest: digest, windowS }: Pick<NotificationMailsTable, 'purpose' | 'address_digest'> & { windowS: number },
): Promise<{ ofUser: number; toAddress: number }> {
  const { rows } = await sql<{ of_user: string; to_address: string }>`select
    (select count(*) from notification_mails where user_id = ${userId} and purpose = ${purpose}
      and sent_at > now() - make_interval(secs => ${windowS})) as of_user,
    (select count(*) from notification_mails where address_digest = ${digest} and purpose = ${purpose}
      and sent_at > now() - make_interval(secs => ${windowS})) as to_address`.execute(db);
  return { ofUser: Number(rows[0]?.of_user), toAddress: Number(rows[0]?.to_address) };
}

export async function insertMail(
  db: Db,
  userId: string,
  row: Pick<NotificationMailsTable, 'id' | 'purpose' | 'address_digest'>,
): Promise<void> {
  await db
    .insertInto('notification_mails')
    .values({ ...row, user_id: userId })
    .execute();
}

export async function pruneMailsAcrossTenants(db: Db): Promise<void> {
  await db
    .deleteFrom('notification_mails')
    .where('sent_at', '<', sql<Date>`now() - interval '2 days'`)
    .execute();
}
