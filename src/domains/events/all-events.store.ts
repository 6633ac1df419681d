import { type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { StoredEvent } from '../../events/outbox.js';
import type { EventsPage } from './events.store.js';
import { type EventFilter, patternsOf } from './filter.js';
import type { Place } from './place.js';

type Db = Kysely<Schema>;

/** An event, whose it is, and the transaction that wrote it. */
export type OwnedEvent = StoredEvent & { userId: string; xid: string };

/** The same of one user alone, if of one. */
export type OwnedFilter = EventFilter & { userId: string | undefined };

/** The transaction before which all have ended, so that no event can come there any more; whether one was written after it, and up to where events were forgotten. */
export async function readEdgeAcrossTenants(db: Db): Promise<{ xid: string; isBehind: boolean; forgotten: string | null }> {
  const { rows } = await sql<{ xid: string; isBehind: boolean; forgotten: string | null }>`
    select pg_snapshot_xmin(pg_current_snapshot())::text as xid,
      exists (select from events where xid >= pg_snapshot_xmin(pg_current_snapshot())) as "isBehind",
      (select xid::text from event_horizon) as forgotten`.execute(db);
  return rows[0]!;
}

/** Those after a place and before that transaction, in their order. */
export async function readAllAcrossTenants(db: Db, after: Place, before: string, limit: number): Promise<OwnedEvent[]> {
  const rows = await selected(db)
    .where(PLACE, '>', placed(after))
    .where('xid', '<', xid8(before))
    .orderBy('xid')
    .orderBy('user_id')
    .orderBy('seq')
    .limit(limit)
    .execute();
  return rows.map(eventOf);
}

/** One more than `limit` where there are more. */
export async function listAllAcrossTenants(
  db: Db,
  { types, agentId, userId }: OwnedFilter,
  before: string,
  page: Omit<EventsPage, 'after'> & { after: Place | undefined },
): Promise<OwnedEvent[]> {
  const order = page.descending ? 'desc' : 'asc';
  let query = selected(db).where('xid', '<', xid8(before));
  if (page.after !== undefined) query = query.where(PLACE, page.descending ? '<' : '>', placed(page.after));
  if (userId !== undefined) query = query.where('user_id', '=', userId);
  if (agentId !== undefined) query = query.where('agent_id', '=', agentId);
  if (types.length > 0) query = query.where((eb) => eb.or(patternsOf(types).map((pattern) => eb('type', 'like', pattern))));
  const rows = await query
    .orderBy('xid', order)
    .orderBy('user_id', order)
    .orderBy('seq', order)
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
  return rows.map(eventOf);
}

/** By id or name. */
export async function findUserAcrossTenants(db: Db, user: string): Promise<string | undefined> {
  const row = await db
    .selectFrom('users')
    .select('id')
    .where(({ or, eb }) => or([eb('id', '=', user), eb('name', '=', user)]))
    .executeTakeFirst();
  return row?.id;
}

const PLACE = sql<string>`(xid, user_id, seq)`;

function placed({ xid, userId, seq }: Place) {
  return sql<string>`(${xid8(xid)}, ${userId}::text, ${seq}::bigint)`;
}

function xid8(xid: string) {
  return sql<string>`${xid}::text::xid8`;
}

function selected(db: Db) {
  return db
    .selectFrom('events')
    .select(['user_id', 'seq', 'id', 'type', 'at', 'actor', 'request_id', 'payload', sql<string>`xid::text`.as('xid_text')]);
}

function eventOf(row: Awaited<ReturnType<ReturnType<typeof selected>['execute']>>[number]): OwnedEvent {
  const { user_id: userId, request_id: requestId, xid_text: xid, seq, ...rest } = row;
  return { ...rest, userId, requestId, xid, seq: Number(seq) };
}
