import { createHash } from 'node:crypto';
import { type Insertable, type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { PageRequest } from '../../lib/page.js';
import type { UsersTable } from './users.table.js';

type Db = Kysely<Schema>;

/** Users are the tenants themselves: making and finding them is the installation's business. */
export async function insertUserAcrossTenants(db: Db, row: Insertable<UsersTable>) {
  return db.insertInto('users').values(row).returningAll().executeTakeFirstOrThrow();
}

export async function findUserAcrossTenants(db: Db, idOrName: string) {
  return db
    .selectFrom('users')
    .selectAll()
    .where(idOrName.startsWith('usr_') ? 'id' : 'name', '=', idOrName)
    .executeTakeFirst();
}

export async function listUsersAcrossTenants(db: Db, page: PageRequest) {
  let query = db.selectFrom('users').selectAll();
  if (page.after !== undefined) query = query.where('id', '>', page.after);
  return query
    .orderBy('id')
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
}

export async function readUser(db: Db, userId: string) {
  return db.selectFrom('users').selectAll().where('id', '=', userId).executeTakeFirst();
}

/** Changes the tier if the user is still at `version` (any, if undefined) and not on the way out. */
export async function setTier(db: Db, userId: string, tier: string, version: number | undefined) {
  let query = db
    .updateTable('users')
    .set({ tier, version: sql<number>`version + 1`, updated_at: sql<Date>`now()` })
    .where('id', '=', userId)
    .where('deleting_at', 'is', null);
  if (version !== undefined) query = query.where('version', '=', version);
  return query.returningAll().executeTakeFirst();
}

export async function markDeleting(db: Db, userId: string) {
  return db
    .updateTable('users')
    .set({ deleting_at: sql<Date>`coalesce(deleting_at, now())`, updated_at: sql<Date>`now()` })
    .where('id', '=', userId)
    .returningAll()
    .executeTakeFirst();
}

/** Users on the way out of whom no container or volume is left. */
export async function readErasableAcrossTenants(db: Db) {
  return db
    .selectFrom('users as u')
    .select(['u.id', 'u.data_key'])
    .where('u.deleting_at', 'is not', null)
    .where(({ not, exists, selectFrom }) =>
      not(exists(selectFrom('deployments as d').select('d.id').whereRef('d.user_id', '=', 'u.id'))),
    )
    .orderBy('u.deleting_at')
    .limit(100)
    .execute();
}

const wrappedElsewhere = (keyId: Buffer) => sql<boolean>`substring(data_key from 2 for 8) <> ${keyId}`;

/** Users whose data key is wrapped under another master key than that. */
export async function countWrappedElsewhereAcrossTenants(db: Db, keyId: Buffer, without: string[]): Promise<number> {
  const row = await db
    .selectFrom('users')
    .select((eb) => eb.fn.countAll().as('n'))
    .where(wrappedElsewhere(keyId))
    .where('id', '<>', sql<string>`all(${without})`)
    .executeTakeFirstOrThrow();
  return Number(row.n);
}

/** Some of them, held until the end of the transaction; those that another holds are passed over. */
export async function takeWrappedElsewhereAcrossTenants(db: Db, keyId: Buffer, without: string[], atMost: number) {
  return db
    .selectFrom('users')
    .select(['id', 'data_key'])
    .where(wrappedElsewhere(keyId))
    .where('id', '<>', sql<string>`all(${without})`)
    .limit(atMost)
    .forNoKeyUpdate()
    .skipLocked()
    .execute();
}

export async function setDataKey(db: Db, userId: string, dataKey: Buffer): Promise<void> {
  await db.updateTable('users').set({ data_key: dataKey }).where('id', '=', userId).execute();
}

/** The last row goes; a digest of the id stays, so that it can be shown that the deletion was done. */
export async function eraseUser(db: Db, userId: string): Promise<void> {
  await db.deleteFrom('users').where('id', '=', userId).execute();
  const digest = createHash('sha256').update(userId).digest('hex');
  await db
    .insertInto('deletions')
    .values({ user_digest: digest })
    .onConflict((oc) => oc.doNothing())
    .execute();
}
