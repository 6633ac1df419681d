import { type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';

type Db = Kysely<Schema>;

/** Events of one turn that are written down together. */
export interface EventsRow {
  turnId: string;
  from: number;
  to: number;
  /** JSON. */
  events: string;
}

/**
 * Writes down what turns said. Of a turn that is not there any more nothing is; of two processes that write the same turn down, the longer row
 * counts, so that whoever reads finds no gap.
 */
export async function insertEventsAcrossTenants(db: Db, rows: EventsRow[]): Promise<void> {
  await sql`
    insert into turn_events (turn_id, user_id, from_seq, to_seq, events)
    select t.id, t.user_id, n.from_seq, n.to_seq, n.events
    from unnest(${rows.map(({ turnId }) => turnId)}::text[], ${rows.map(({ from }) => from)}::int[],
      ${rows.map(({ to }) => to)}::int[], ${rows.map(({ events }) => events)}::text[]) as n (turn_id, from_seq, to_seq, events)
    join turns t on t.id = n.turn_id
    for key share of t
    on conflict (turn_id, from_seq) do update set to_seq = excluded.to_seq, events = excluded.events
      where excluded.to_seq > turn_events.to_seq`.execute(db);
}

/** What comes after that event, in order, some rows at a time. The first row may begin before it. */
export async function readEventRows(db: Db, userId: string, turnId: string, after: number, limit: number) {
  return db
    .selectFrom('turn_events')
    .select(['from_seq', 'to_seq', 'events'])
    .where('user_id', '=', userId)
    .where('turn_id', '=', turnId)
    .where('to_seq', '>', after)
    .orderBy('from_seq')
    .limit(limit)
    .execute();
}

/** Deletes up to `atMost` rows that are older than that; answers how many. */
export async function pruneEventsAcrossTenants(db: Db, keptS: number, atMost: number): Promise<number> {
  const old = db
    .selectFrom('turn_events')
    .select(sql<string>`ctid`.as('at'))
    .where('created_at', '<', sql<Date>`now() - make_interval(secs => ${keptS})`)
    .limit(atMost);
  const { numDeletedRows } = await db
    .deleteFrom('turn_events')
    .where(sql<string>`ctid`, 'in', old)
    .executeTakeFirst();
  return Number(numDeletedRows);
}
