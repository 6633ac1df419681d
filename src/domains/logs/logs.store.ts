import { type Kysely, sql, type Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';

type Db = Kysely<Schema>;

const inSeconds = (seconds: number) => sql<Date>`now() + make_interval(secs => ${seconds})`;

/** The agent that a caller names by name or id, and where it is. */
export async function readAgent(db: Db, userId: string, agent: string) {
  return db
    .selectFrom('agents')
    .select(['name', 'deployment_id'])
    .where('user_id', '=', userId)
    .where((eb) => eb.or([eb('name', '=', agent), eb('id', '=', agent)]))
    .executeTakeFirst();
}

/** Names of the agents whose files are in each of these deployments. */
export async function readAgentNames(db: Db, userId: string) {
  return db.selectFrom('agents').select(['name', 'deployment_id', 'moving_from']).where('user_id', '=', userId).execute();
}

/** What is to be known of a user's stream: for how long it is kept, why nothing comes, whether the user is still there. */
export async function readStream(db: Db, userId: string) {
  return db
    .selectFrom('users as u')
    .innerJoin('tiers as t', 't.name', 'u.tier')
    .leftJoin('log_streams as s', 's.user_id', 'u.id')
    .select(['s.waiting', 't.log_days', 'u.deleting_at'])
    .select(sql<number>`(extract(epoch from now() - make_interval(days => t.log_days)) * 1000)::float8`.as('kept_from_ms'))
    .where('u.id', '=', userId)
    .executeTakeFirst();
}

const msOf = (column: string) => sql<number | null>`(extract(epoch from ${sql.ref(column)}) * 1000)::float8`;

/** The segments of a user's stream, oldest first. */
export async function readSegments(db: Db, userId: string) {
  const rows = await db
    .selectFrom('log_segments')
    .select(['number', 'bytes', 'sealed_at'])
    .select([msOf('from_at').as('from_ms'), msOf('to_at').as('to_ms')])
    .where('user_id', '=', userId)
    .orderBy('number')
    .execute();
  return rows.map((row) => ({
    number: row.number,
    bytes: row.sealed_at === null ? null : Number(row.bytes),
    isEmpty: Number(row.bytes) === 0,
    fromMs: row.sealed_at === null ? null : row.from_ms,
    toMs: row.sealed_at === null ? null : row.to_ms,
  }));
}

/** An instance that runs, or did until a moment ago, and is nobody's to collect or this process's. */
export interface SourceRow {
  id: string;
  name: string;
  deployment_id: string;
  user_id: string;
  generation: number;
  /** Whether it is asleep: there is nothing to read until it is started. */
  stopped: boolean;
}

export async function readSourcesAcrossTenants(db: Db, owner: string): Promise<SourceRow[]> {
  const rows = await db
    .selectFrom('instances as i')
    .leftJoin('log_streams as s', 's.user_id', 'i.user_id')
    .select(['i.id', 'i.name', 'i.deployment_id', 'i.user_id', 'i.generation'])
    .select(sql<boolean>`i.stopped_at is not null`.as('stopped'))
    .where('i.ended_at', 'is', null)
    .where('i.user_id', 'is not', null)
    .where('i.started_at', 'is not', null)
    .where((eb) =>
      eb.or([eb('s.lease_owner', 'is', null), eb('s.lease_owner', '=', owner), eb('s.lease_until', '<', sql<Date>`now()`)]),
    )
    .execute();
  return rows.flatMap((row) => (row.user_id === null ? [] : [{ ...row, user_id: row.user_id }]));
}

/** The right to write a user's stream. */
export interface StreamLease {
  userId: string;
  owner: string;
  epoch: string;
}

/** Takes the leases of these users' streams, but where another process holds it or the user is gone. In the order of ids, as everybody takes several. */
export async function claimStreamsAcrossTenants(
  db: Db,
  userIds: string[],
  owner: string,
  leaseS: number,
): Promise<StreamLease[]> {
  const rows = await db
    .insertInto('log_streams')
    .columns(['user_id', 'lease_owner', 'lease_until', 'lease_epoch'])
    .expression((eb) =>
      eb
        .selectFrom('users')
        .select(['id', sql<string>`${owner}::text`.as('o'), inSeconds(leaseS).as('u'), sql<string>`1::bigint`.as('e')])
        .where(sql<boolean>`id = any(${userIds}::text[])`)
        .orderBy('id'),
    )
    .onConflict((oc) =>
      oc
        .column('user_id')
        .doUpdateSet({
          lease_owner: owner,
          lease_until: inSeconds(leaseS),
          lease_epoch: sql<string>`log_streams.lease_epoch + 1`,
        })
        .where(({ or, ref, eb }) =>
          or([eb(ref('log_streams.lease_owner'), 'is', null), eb(ref('log_streams.lease_until'), '<', sql<Date>`now()`)]),
        ),
    )
    .returning(['user_id', 'lease_epoch'])
    .execute();
  return rows.map((row) => ({ userId: row.user_id, owner, epoch: row.lease_epoch }));
}

/** Keeps the leases of these users; answers whose could be kept. */
export async function renewStreamsAcrossTenants(db: Db, owner: string, userIds: string[], leaseS: number): Promise<Set<string>> {
  if (userIds.length === 0) return new Set();
  const rows = await db
    .updateTable('log_streams')
    .set({ lease_until: inSeconds(leaseS) })
    .where('lease_owner', '=', owner)
    .where('lease_until', '>', sql<Date>`now()`)
    .where('user_id', 'in', userIds)
    .returning('user_id')
    .execute();
  return new Set(rows.map((row) => row.user_id));
}

export async function dropStreamLeasesAcrossTenants(db: Db): Promise<void> {
  await db.updateTable('log_streams').set({ lease_owner: null }).where('lease_owner', 'is not', null).execute();
}

function held(db: Db, userId: string, { owner, epoch }: StreamLease) {
  return db
    .updateTable('log_streams')
    .where('user_id', '=', userId)
    .where('lease_owner', '=', owner)
    .where('lease_epoch', '=', epoch);
}

export async function releaseStream(db: Db, userId: string, lease: StreamLease): Promise<void> {
  await held(db, userId, lease).set({ lease_owner: null, lease_until: null, waiting: null }).execute();
}

export async function setWaiting(db: Db, userId: string, lease: StreamLease, waiting: string | null): Promise<void> {
  await held(db, userId, lease).set({ waiting }).execute();
}

/** A number for the next segment, and its row; undefined where the lease is lost. */
export async function openSegmentRow(db: Db, userId: string, lease: StreamLease): Promise<number | undefined> {
  return db.transaction().execute(async (trx) => {
    const row = await held(trx, userId, lease)
      .set({ last_segment: sql<number>`last_segment + 1` })
      .returning('last_segment')
      .executeTakeFirst();
    if (!row) return undefined;
    await trx.insertInto('log_segments').values({ user_id: userId, number: row.last_segment }).execute();
    return row.last_segment;
  });
}

/** What a segment's row says of its content. */
export interface SegmentContent {
  bytes: number;
  lines: number;
  gaps: number;
  from: string | undefined;
  to: string | undefined;
}

/** Writes down what a segment holds by now; sealed, nothing will be added to it. Nothing is changed of one that was sealed by another. */
export async function noteSegment(
  db: Db,
  userId: string,
  number: number,
  { bytes, lines, gaps, from, to }: SegmentContent,
  isSealed: boolean,
): Promise<void> {
  const time = (text: string | undefined) => (text === undefined ? null : sql<Date>`${text}::timestamptz`);
  await db
    .updateTable('log_segments')
    .set({ bytes, lines, gaps, from_at: time(from), to_at: time(to), ...(isSealed ? { sealed_at: sql<Date>`now()` } : {}) })
    .where('user_id', '=', userId)
    .where('number', '=', number)
    .where('sealed_at', 'is', null)
    .execute();
}

/** A segment that a writer left without sealing it, or the last one of a stream. */
export interface LeftSegment {
  number: number;
  is_sealed: boolean;
}

/** Those of each of these users, in their order. */
export async function readLeftAcrossTenants(db: Db, userIds: string[]): Promise<Map<string, LeftSegment[]>> {
  const { rows } = await sql<LeftSegment & { user_id: string }>`
    select user_id, number, is_sealed from (
      select user_id, number, sealed_at is not null as is_sealed, number = max(number) over (partition by user_id) as is_last
      from log_segments where user_id = any(${userIds}::text[])
    ) as segments where is_last or not is_sealed order by user_id, number`.execute(db);
  const left = new Map<string, LeftSegment[]>();
  for (const row of rows) left.set(row.user_id, [...(left.get(row.user_id) ?? []), row]);
  return left;
}

/** Sealed segments that are too old by their users' tiers, or beyond what these keep: of these users, or of all. */
export async function readExpiredAcrossTenants(db: Db, userIds: string[] | undefined, atMost: number) {
  const { rows } = await sql<{ user_id: string; number: number }>`
    with kept as (
      select s.user_id, s.number, s.sealed_at, t.log_days, t.log_mib,
        sum(s.bytes) over (partition by s.user_id order by s.number desc) as bytes_since
      from log_segments s join users u on u.id = s.user_id join tiers t on t.name = u.tier
      where ${userIds === undefined ? sql`true` : sql`s.user_id = any(${userIds})`}
    )
    select user_id, number from kept
    where sealed_at is not null
      and (sealed_at < now() - make_interval(days => log_days) or bytes_since > log_mib::bigint * 1048576)
    order by user_id, number limit ${atMost}`.execute(db);
  return rows;
}

export async function deleteSegment(db: Db, userId: string, number: number): Promise<void> {
  await db.deleteFrom('log_segments').where('user_id', '=', userId).where('number', '=', number).execute();
}

/** Which of these users there are. */
export async function findUsersAcrossTenants(db: Db, userIds: string[]): Promise<Set<string>> {
  if (userIds.length === 0) return new Set();
  const rows = await db.selectFrom('users').select('id').where('id', 'in', userIds).execute();
  return new Set(rows.map((row) => row.id));
}

export async function eraseLogs(trx: Transaction<Schema>, userId: string): Promise<void> {
  await trx.deleteFrom('log_segments').where('user_id', '=', userId).execute();
  await trx.deleteFrom('log_streams').where('user_id', '=', userId).execute();
}
