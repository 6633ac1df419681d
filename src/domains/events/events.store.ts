import { type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { type EventFilter, patternsOf } from './filter.js';

type Db = Kysely<Schema>;

/** The number of a user's last event; 0 where nothing has happened. */
export async function readHead(db: Db, userId: string): Promise<number> {
  const row = await db.selectFrom('event_counters').select('last_seq').where('user_id', '=', userId).executeTakeFirst();
  return Number(row?.last_seq ?? 0);
}

/** The same of several users that there are. */
export async function readHeadsAcrossTenants(db: Db, userIds: string[]): Promise<Map<string, number>> {
  const rows = await db
    .selectFrom('users as u')
    .leftJoin('event_counters as c', 'c.user_id', 'u.id')
    .select(['u.id', 'c.last_seq'])
    .where('u.id', '=', sql<string>`any(${userIds})`)
    .execute();
  return new Map(rows.map((row) => [row.id, Number(row.last_seq ?? 0)]));
}

/** The number of the oldest event that is kept; undefined where none is. */
export async function readOldest(db: Db, userId: string): Promise<number | undefined> {
  const row = await db
    .selectFrom('events')
    .select('seq')
    .where('user_id', '=', userId)
    .orderBy('seq')
    .limit(1)
    .executeTakeFirst();
  return row && Number(row.seq);
}

export interface EventsPage {
  after: number | undefined;
  descending: boolean;
  offset: number;
  limit: number;
}

/** One more than `limit` where there are more. */
export async function listEvents(db: Db, userId: string, { types, agentId }: EventFilter, page: EventsPage) {
  let query = db
    .selectFrom('events')
    .select(['seq', 'id', 'type', 'at', 'actor', 'request_id', 'payload'])
    .where('user_id', '=', userId);
  if (page.after !== undefined) query = query.where('seq', page.descending ? '<' : '>', page.after);
  if (agentId !== undefined) query = query.where('agent_id', '=', agentId);
  if (types.length > 0) query = query.where((eb) => eb.or(patternsOf(types).map((pattern) => eb('type', 'like', pattern))));
  const rows = await query
    .orderBy('seq', page.descending ? 'desc' : 'asc')
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
  return rows.map(({ request_id, ...row }) => ({ ...row, seq: Number(row.seq), requestId: request_id }));
}

/** The id of the user's agent of that name. */
export async function findAgent(db: Db, userId: string, name: string): Promise<string | undefined> {
  const row = await db
    .selectFrom('agents')
    .select('id')
    .where('user_id', '=', userId)
    .where('name', '=', name)
    .executeTakeFirst();
  return row?.id;
}

/** Forgets events that are older, some at a time, and notes up to where; answers how many. */
export async function pruneEventsAcrossTenants(db: Db, days: number, atMost: number): Promise<number> {
  const { rows } = await sql<{ gone: number }>`with old as (
      select user_id, seq from events where at < now() - make_interval(days => ${days}) order by at limit ${atMost}
    ), gone as (
      delete from events e using old where e.user_id = old.user_id and e.seq = old.seq returning e.xid
    ), noted as (
      insert into event_horizon (xid) select xid from gone order by xid desc limit 1
      on conflict (only_one) do update set xid = greatest(event_horizon.xid, excluded.xid)
    )
    select count(*)::int as gone from gone`.execute(db);
  return rows[0]?.gone ?? 0;
}

// ---- tickets ---------------------------------------------------------------------------------------------------------------

export async function insertTicket(db: Db, userId: string, ticket: { digest: string; keyId: string; seconds: number }) {
  return db
    .insertInto('socket_tickets')
    .values({
      digest: ticket.digest,
      user_id: userId,
      key_id: ticket.keyId,
      expires_at: sql<Date>`now() + make_interval(secs => ${ticket.seconds})`,
    })
    .returning('expires_at')
    .executeTakeFirstOrThrow();
}

/** Takes a ticket away from everybody else; undefined where it is gone or too old. */
export async function takeTicketAcrossTenants(db: Db, digest: string) {
  return db
    .deleteFrom('socket_tickets')
    .where('digest', '=', digest)
    .where('expires_at', '>', sql<Date>`now()`)
    .returning(['user_id', 'key_id'])
    .executeTakeFirst();
}

export async function pruneTicketsAcrossTenants(db: Db): Promise<void> {
  await db
    .deleteFrom('socket_tickets')
    .where('expires_at', '<', sql<Date>`now()`)
    .execute();
}

export async function eraseTickets(db: Db, userId: string): Promise<void> {
  await db.deleteFrom('socket_tickets').where('user_id', '=', userId).execute();
}
