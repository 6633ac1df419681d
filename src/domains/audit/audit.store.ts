import { type Kysely, sql, type Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { PageRequest } from '../../lib/page.js';
import type { Entry } from './entry.js';
import type { Head } from './chain.js';

type Db = Kysely<Schema>;

// ---- keys ------------------------------------------------------------------------------------------------------------------

export async function readKeysAcrossTenants(db: Db) {
  return db.selectFrom('audit_keys').selectAll().executeTakeFirst();
}

/** Inserts the one row unless another process was first; answers the row that is there. */
export async function insertKeysAcrossTenants(db: Db, row: { public_key: Buffer; seed: Buffer; data_key: Buffer }) {
  await db
    .insertInto('audit_keys')
    .values(row)
    .onConflict((oc) => oc.column('only_row').doNothing())
    .execute();
  return db.selectFrom('audit_keys').selectAll().executeTakeFirstOrThrow();
}

/** Held until the end of the transaction; undefined where another holds it. */
export async function holdKeysAcrossTenants(trx: Transaction<Schema>) {
  return trx.selectFrom('audit_keys').selectAll().forUpdate().skipLocked().executeTakeFirst();
}

export async function setSealedKeysAcrossTenants(db: Db, row: { seed: Buffer; data_key: Buffer }): Promise<void> {
  await db.updateTable('audit_keys').set(row).execute();
}

/** `erasedForm`, in the database. */
const erased = (column: 'actor' | 'user_id' | 'resource' | 'request_id') =>
  sql<string>`case when ${sql.ref(column)} like 'sha256:%' then ${sql.ref(column)}
    else 'sha256:' || encode(sha256(convert_to(${sql.ref(column)}, 'UTF8')), 'hex') end`;

const erasedActor = sql<string>`case when actor like 'user:%' or actor like 'agent:%' then ${erased('actor')} else actor end`;

// ---- writing ---------------------------------------------------------------------------------------------------------------

/** The database's time, and the sealed data key of each of these users that is there still. */
export async function contextAcrossTenants(db: Db, userIds: string[]): Promise<{ at: Date; dataKeys: Map<string, Buffer> }> {
  const { rows } = await sql<{ at: Date; id: string | null; data_key: Buffer | null }>`
    select date_trunc('milliseconds', clock_timestamp()) as at, u.id, u.data_key
    from (select 1) as one left join users u on u.id = any(${userIds}::text[])`.execute(db);
  const known = rows.flatMap(({ id, data_key }) => (id === null || data_key === null ? [] : [[id, data_key] as const]));
  return { at: rows[0]!.at, dataKeys: new Map(known) };
}

export interface Written extends Entry {
  digest: string;
  mac: string;
}

/**
 * Adds entries in one statement of one parameter, however many they are, and keeps the list of open acts: one that begins is on it, one that
 * ends is not. That an act was cut off is said once, by whoever takes it off the list. Of a user that is gone nothing personal is added,
 * whatever is in the entry (`withoutPerson`). Answers the database's time.
 */
export async function addAcrossTenants(db: Db, entries: Written[], processId: string): Promise<Date> {
  const given = entries.map((entry) => ({ ...entry, personal: entry.personal?.toString('base64') ?? null }));
  const { rows } = await sql<{ at: Date }>`
    with given as (
      select e.*, e.user_id like 'usr\\_%' and u.id is null as is_gone from jsonb_to_recordset(${JSON.stringify(given)}::jsonb) as e(
        id text, kind text, act text, at timestamptz(3), operation text, actor text, user_id text, resource text, request_id text, status integer,
        code text, count integer, request_digest text, before_digest text, after_digest text, personal text, personal_digest text, digest text,
        mac text) left join users u on u.id = e.user_id
    ), entry as (
      select id, kind, act, at, operation, case when is_gone then ${erasedActor} else actor end as actor,
        case when is_gone then ${erased('user_id')} else user_id end as user_id,
        case when is_gone then ${erased('resource')} else resource end as resource,
        case when is_gone then ${erased('request_id')} else request_id end as request_id,
        status, code, count, request_digest, before_digest, after_digest, case when is_gone then null else personal end as personal,
        personal_digest, digest, mac
      from given
    ), opened as (
      insert into audit_open (act, process_id, operation, actor, user_id)
      select id, ${processId}, operation, actor, user_id from entry where kind = 'begun'
    ), closed as (
      delete from audit_open where act in (select act from entry where kind = 'ended') returning act
    ), added as (
      insert into audit_entries (id, kind, act, at, operation, actor, user_id, resource, request_id, status, code, count, request_digest,
        before_digest, after_digest, personal, personal_digest, digest, mac)
      select id, kind, act, at, operation, actor, user_id, resource, request_id, status, code, count, request_digest, before_digest, after_digest,
        decode(personal, 'base64'), personal_digest, digest, mac
      from entry
      where code is distinct from 'cut_off' or act in (select act from closed)
    )
    select date_trunc('milliseconds', clock_timestamp()) as at`.execute(db);
  return rows[0]!.at;
}

/** Acts that dead processes have left open. */
export async function readCutOffAcrossTenants(db: Db) {
  return db
    .selectFrom('audit_open as o')
    .leftJoin('processes as p', 'p.id', 'o.process_id')
    .select(['o.act', 'o.operation', 'o.actor', 'o.user_id'])
    .where((eb) => eb.or([eb('p.id', 'is', null), eb('p.heartbeat_at', '<', sql<Date>`now() - interval '60 seconds'`)]))
    .limit(500)
    .execute();
}

/** Forgets where strangers came from, some at a time; answers how many. */
export async function forgetStrangersAcrossTenants(db: Db, keptDays: number, atMost: number): Promise<number> {
  const some = db
    .selectFrom('audit_entries')
    .select('id')
    .where('kind', '=', 'refused')
    .where('user_id', 'is', null)
    .where('personal', 'is not', null)
    .where('at', '<', sql<Date>`now() - make_interval(days => ${keptDays})`)
    .limit(atMost);
  const { numUpdatedRows } = await db
    .updateTable('audit_entries')
    .set({ personal: null })
    .where('id', 'in', some)
    .executeTakeFirst();
  return Number(numUpdatedRows);
}

// ---- the chain -------------------------------------------------------------------------------------------------------------

/** The head, held until the end of the transaction; `elsewhere` where another process has it and is at work on the chain. */
export async function holdHeadAcrossTenants(trx: Transaction<Schema>): Promise<Head | 'elsewhere' | undefined> {
  const held = await trx.selectFrom('audit_heads').selectAll().forUpdate().skipLocked().executeTakeFirst();
  if (held) return headOf(held);
  return (await trx.selectFrom('audit_heads').select('seq').executeTakeFirst()) ? 'elsewhere' : undefined;
}

export async function readHeadAcrossTenants(db: Db): Promise<Head | undefined> {
  const row = await db.selectFrom('audit_heads').selectAll().executeTakeFirst();
  return row && headOf(row);
}

function headOf(row: { seq: string | number; hash: string; at: Date; signature: Buffer }): Head {
  return { seq: Number(row.seq), hash: row.hash, at: row.at, signature: row.signature };
}

/** Two processes that make the first head at once: the second gets a unique violation, and nothing of it stays. */
export async function insertHeadAcrossTenants(trx: Transaction<Schema>, head: Head): Promise<void> {
  await trx
    .insertInto('audit_heads')
    .values({ ...head, signature: Buffer.from(head.signature) })
    .execute();
}

export async function setHeadAcrossTenants(trx: Transaction<Schema>, head: Head): Promise<void> {
  await trx
    .updateTable('audit_heads')
    .set({ ...head, signature: Buffer.from(head.signature) })
    .execute();
}

export async function hasUnsealedAcrossTenants(db: Db): Promise<boolean> {
  return (await db.selectFrom('audit_entries').select('id').where('seq', 'is', null).limit(1).executeTakeFirst()) !== undefined;
}

/** Entries without a place, oldest first. */
export async function readUnsealedAcrossTenants(db: Db, atMost: number, without: string[] = []) {
  return db
    .selectFrom('audit_entries')
    .selectAll()
    .where('seq', 'is', null)
    .where('id', '<>', sql<string>`all(${without}::text[])`)
    .orderBy('at')
    .orderBy('id')
    .limit(atMost)
    .execute();
}

export async function countUnsealedAcrossTenants(db: Db): Promise<{ count: number; oldestS: number }> {
  const row = await db
    .selectFrom('audit_entries')
    .select([
      (eb) => eb.fn.countAll<string>().as('count'),
      sql<string>`coalesce(extract(epoch from clock_timestamp() - min(at)), 0)`.as('oldest'),
    ])
    .where('seq', 'is', null)
    .executeTakeFirstOrThrow();
  return { count: Number(row.count), oldestS: Math.max(0, Number(row.oldest)) };
}

/** Gives entries their places. */
export async function placeAcrossTenants(
  trx: Transaction<Schema>,
  links: { id: string; seq: number; hash: string }[],
): Promise<void> {
  await sql`
    update audit_entries e set seq = l.seq, hash = l.hash
    from jsonb_to_recordset(${JSON.stringify(links)}::jsonb) as l(id text, seq bigint, hash text)
    where e.id = l.id`.execute(trx);
}

/** Which of these users are gone. Those that are not can only go after this transaction. */
export async function goneAcrossTenants(trx: Transaction<Schema>, userIds: string[]): Promise<Set<string>> {
  const there = await trx
    .selectFrom('users')
    .select('id')
    .where('id', '=', sql<string>`any(${userIds}::text[])`)
    .forKeyShare()
    .execute();
  const known = new Set(there.map(({ id }) => id));
  return new Set(userIds.filter((id) => !known.has(id)));
}

export async function readLinksAcrossTenants(db: Db, afterSeq: number, atMost: number) {
  const rows = await db
    .selectFrom('audit_entries')
    .selectAll()
    .where('seq', '>', afterSeq)
    .orderBy('seq')
    .limit(atMost)
    .execute();
  return rows.map((row) => ({ ...row, seq: Number(row.seq), hash: row.hash ?? '' }));
}

export async function readHashAcrossTenants(db: Db, seq: number): Promise<string | undefined> {
  const row = await db.selectFrom('audit_entries').select('hash').where('seq', '=', seq).executeTakeFirst();
  return row?.hash ?? undefined;
}

// ---- erasure ---------------------------------------------------------------------------------------------------------------

/** Takes the user's row for this transaction, so that no entry of it is put into the chain meanwhile. */
export async function holdUser(trx: Transaction<Schema>, userId: string): Promise<void> {
  await trx.selectFrom('users').select('id').where('id', '=', userId).forUpdate().execute();
}

/** What `withoutPerson` says of one entry, for all of a user's. */
export async function takeOutPerson(trx: Transaction<Schema>, userId: string): Promise<void> {
  await trx
    .updateTable('audit_entries')
    .set({
      actor: erasedActor,
      resource: erased('resource'),
      request_id: erased('request_id'),
      personal: null,
      user_id: erased('user_id'),
    })
    .where('user_id', '=', userId)
    .execute();
  await trx.deleteFrom('audit_open').where('user_id', '=', userId).execute();
}

export async function insertReceiptAcrossTenants(
  trx: Transaction<Schema>,
  row: { user_digest: string; entry_id: string; at: Date; signature: Buffer },
): Promise<void> {
  await trx
    .insertInto('audit_receipts')
    .values(row)
    .onConflict((oc) => oc.doNothing())
    .execute();
}

export async function readReceiptAcrossTenants(db: Db, userDigest: string) {
  return db.selectFrom('audit_receipts').selectAll().where('user_digest', '=', userDigest).executeTakeFirst();
}

/** Which of these digests belong to users whose erasure is in the chain. */
export async function erasuresAcrossTenants(db: Db, userDigests: string[]): Promise<Set<string>> {
  const rows = await db
    .selectFrom('audit_entries')
    .select('user_id')
    .where('user_id', '=', sql<string>`any(${userDigests}::text[])`)
    .where('kind', '=', 'erased')
    .where('seq', 'is not', null)
    .execute();
  return new Set(rows.flatMap(({ user_id }) => user_id ?? []));
}

// ---- reading ---------------------------------------------------------------------------------------------------------------

export interface Filter {
  actor?: string | undefined;
  operation?: string | undefined;
}

function acts(db: Db, filter: Filter, page: PageRequest) {
  let query = db
    .selectFrom('audit_entries as b')
    .leftJoinLateral(
      (eb) =>
        eb
          .selectFrom('audit_entries as e')
          .select(['e.at as ended_at', 'e.status', 'e.code', 'e.after_digest', 'e.resource', 'e.user_id'])
          .whereRef('e.act', '=', 'b.id')
          .where('e.kind', '=', 'ended')
          .orderBy('e.id', 'desc')
          .limit(1)
          .as('e'),
      (join) => join.onTrue(),
    )
    .selectAll('b')
    .select(['e.ended_at', 'e.status as end_status', 'e.code as end_code', 'e.after_digest as end_digest'])
    .select(['e.resource as end_resource', 'e.user_id as end_user'])
    .where('b.kind', '<>', 'ended');
  if (page.after !== undefined) query = query.where('b.id', '<', page.after);
  if (filter.actor !== undefined) query = query.where('b.actor', '=', filter.actor);
  if (filter.operation !== undefined) query = query.where('b.operation', '=', filter.operation);
  return query
    .orderBy('b.id', 'desc')
    .offset(page.offset)
    .limit(page.limit + 1);
}

export async function listActs(db: Db, userId: string, filter: Filter, page: PageRequest) {
  return acts(db, filter, page).where('b.user_id', '=', userId).execute();
}

export async function listActsAcrossTenants(db: Db, filter: Filter, page: PageRequest) {
  return acts(db, filter, page).execute();
}

export type ActRow = Awaited<ReturnType<typeof listActsAcrossTenants>>[number];
