import { type Insertable, type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { PageRequest } from '../../lib/page.js';
import type { ApiKeysTable } from './api-keys.table.js';

type Db = Kysely<Schema>;
export type NewKeyRow = Insertable<ApiKeysTable>;

const COLUMNS = ['id', 'kind', 'user_id', 'agent_id', 'name', 'hint', 'expires_at', 'revoked_at', 'created_at'] as const;
/** Expiry is decided by the database's clock. */
const expired = sql<boolean>`coalesce(expires_at <= now(), false)`.as('expired');

/** `expiresInS` becomes a time of the database's clock. */
export async function insertKeyAcrossTenants(db: Db, row: NewKeyRow, expiresInS: number | undefined) {
  const expires = expiresInS === undefined ? null : sql<Date>`now() + make_interval(secs => ${expiresInS})`;
  return db
    .insertInto('api_keys')
    .values({ ...row, expires_at: expires })
    .returning([...COLUMNS, expired])
    .executeTakeFirstOrThrow();
}

/** A key by its id with the names its caller carries; nothing when it, its user or its agent is on the way out. */
export async function readForAuthenticationAcrossTenants(db: Db, keyId: string) {
  return livingKeys(db)
    .leftJoin('agents as a', 'a.id', 'k.agent_id')
    .select(['k.id', 'k.kind', 'k.user_id', 'k.agent_id', 'k.digest', 'u.name as user_name', 'u.tier', 'a.name as agent_name'])
    .select(sql<number | null>`extract(epoch from (k.expires_at - now()))::float8 * 1000`.as('left_ms'))
    .where('k.id', '=', keyId)
    .executeTakeFirst();
}

/** Those of the keys that would be let in. */
export async function livingAcrossTenants(db: Db, keyIds: string[]): Promise<string[]> {
  const rows = await livingKeys(db)
    .select('k.id')
    .where('k.id', '=', sql<string>`any(${keyIds})`)
    .execute();
  return rows.map((row) => row.id);
}

function livingKeys(db: Db) {
  return db
    .selectFrom('api_keys as k')
    .leftJoin('users as u', 'u.id', 'k.user_id')
    .where('k.revoked_at', 'is', null)
    .where('u.deleting_at', 'is', null)
    .where((eb) => eb.or([eb('k.expires_at', 'is', null), eb('k.expires_at', '>', sql<Date>`now()`)]));
}

export async function listKeys(db: Db, userId: string, page: PageRequest) {
  return keysOf(db, userId, page);
}

export async function listAdminKeysAcrossTenants(db: Db, page: PageRequest) {
  return keysOf(db, null, page);
}

async function keysOf(db: Db, userId: string | null, page: PageRequest) {
  let query = db
    .selectFrom('api_keys')
    .select([...COLUMNS, expired])
    .where('user_id', userId === null ? 'is' : '=', userId);
  if (page.after !== undefined) query = query.where('id', '>', page.after);
  return query
    .orderBy('id')
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
}

export async function countKeys(db: Db, userId: string): Promise<number> {
  const row = await db
    .selectFrom('api_keys')
    .select((eb) => eb.fn.countAll().as('n'))
    .where('user_id', '=', userId)
    .executeTakeFirstOrThrow();
  return Number(row.n);
}

/** Whether a key was there to revoke; one revoked already counts. */
export async function revokeKey(db: Db, userId: string, keyId: string): Promise<boolean> {
  return revoke(db, userId, keyId);
}

export async function revokeAdminKeyAcrossTenants(db: Db, keyId: string): Promise<boolean> {
  return revoke(db, null, keyId);
}

async function revoke(db: Db, userId: string | null, keyId: string): Promise<boolean> {
  const done = await db
    .updateTable('api_keys')
    .set({ revoked_at: sql<Date>`coalesce(revoked_at, now())` })
    .where('id', '=', keyId)
    .where('user_id', userId === null ? 'is' : '=', userId)
    .returning('id')
    .executeTakeFirst();
  return done !== undefined;
}

/** Revokes the agent's primary key; answers its id. */
export async function revokePrimaryKey(db: Db, userId: string, agentId: string): Promise<string[]> {
  const rows = await db
    .updateTable('api_keys')
    .set({ revoked_at: sql<Date>`now()` })
    .where('user_id', '=', userId)
    .where('agent_id', '=', agentId)
    .where('is_primary', '=', true)
    .where('revoked_at', 'is', null)
    .returning('id')
    .execute();
  return rows.map((row) => row.id);
}

/** The user, unless on the way out, which waits until the end of the transaction. */
export async function holdUser(db: Db, userId: string) {
  return db
    .selectFrom('users')
    .select('id')
    .where('id', '=', userId)
    .where('deleting_at', 'is', null)
    .forShare()
    .executeTakeFirst();
}

/** Holds the agent until the end of the transaction: it stays, and of two rotations of its key one waits for the other. */
export async function lockAgent(db: Db, userId: string, agent: string) {
  return db
    .selectFrom('agents')
    .select('id')
    .where('user_id', '=', userId)
    .where((eb) => eb.or([eb('name', '=', agent), eb('id', '=', agent)]))
    .forNoKeyUpdate()
    .executeTakeFirst();
}

export async function deleteKeys(db: Db, userId: string): Promise<void> {
  await db.deleteFrom('api_keys').where('user_id', '=', userId).execute();
}
