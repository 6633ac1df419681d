import { type Kysely, sql, type Transaction } from 'kysely';
import type { Schema } from '../db/schema.js';
import { newId } from '../lib/ids.js';
import { noteWritten } from './written.js';

/** Something that happened to a user's things. */
export interface NewEvent {
  /** `domain.action` in the past tense, such as `agent.created`. */
  type: string;
  /** Who did it: `actorOf(caller)`, or the name of the part of Berth that did. */
  actor: string;
  requestId: string | null;
  /** Thin: ids and what changed, never the thing itself and never a secret. `agent_id` says which agent it is about. */
  payload: Record<string, unknown>;
}

export interface StoredEvent extends NewEvent {
  /** Counts up by one per user, in the order of commits, without gaps. */
  seq: number;
  id: string;
  at: Date;
}

/**
 * Writes an event in the transaction that makes it true, as that transaction's last statement: it locks the user's counter
 * until the commit, so that numbers become visible in their order and none is skipped. The database says `event` with the user's id
 * on the bus after the commit, by itself.
 */
export async function appendEvent(trx: Transaction<Schema>, userId: string, event: NewEvent): Promise<number> {
  await trx.getExecutor().provideConnection(async (connection) => noteWritten(connection, userId));
  const { seq } = await trx
    .with('counter', (qb) =>
      qb
        .insertInto('event_counters')
        .values({ user_id: userId, last_seq: 1 })
        .onConflict((oc) => oc.column('user_id').doUpdateSet((eb) => ({ last_seq: eb('event_counters.last_seq', '+', 1) })))
        .returning('last_seq'),
    )
    .insertInto('events')
    .values((eb) => ({
      user_id: userId,
      seq: eb.selectFrom('counter').select('last_seq'),
      id: newId('evt'),
      type: event.type,
      // Not the column's now(), which is when the transaction began: times should not run against the numbers.
      at: eb.fn<Date>('clock_timestamp'),
      actor: event.actor,
      request_id: event.requestId,
      agent_id: agentOf(event.payload),
      payload: JSON.stringify(event.payload),
    }))
    .returning('seq')
    .executeTakeFirstOrThrow();
  return Number(seq);
}

/** An event, and whose. */
export interface UserEvent extends NewEvent {
  userId: string;
}

/** The same for events of many users at once, in one statement; those of one user keep their order. Counters are taken in the order of users, so that two of these never wait for each other. */
export async function appendEventsAcrossTenants(trx: Transaction<Schema>, events: readonly UserEvent[]): Promise<void> {
  if (events.length === 0) return;
  const column = (of: (event: UserEvent) => string | null) => sql`${events.map(of)}::text[]`;
  await trx.getExecutor().provideConnection(async (connection) => {
    for (const { userId } of events) noteWritten(connection, userId);
  });
  await sql`with given as (
      select *, row_number() over (partition by user_id order by place) as number, count(*) over (partition by user_id) as of_user
      from unnest(${column((event) => event.userId)}, ${column(() => newId('evt'))}, ${column((event) => event.type)},
        ${column((event) => event.actor)}, ${column((event) => event.requestId)}, ${column((event) => agentOf(event.payload))},
        ${column((event) => JSON.stringify(event.payload))})
        with ordinality as g (user_id, id, type, actor, request_id, agent_id, payload, place)
    ), counters as (
      insert into event_counters (user_id, last_seq) select distinct user_id, of_user from given order by user_id
      on conflict (user_id) do update set last_seq = event_counters.last_seq + excluded.last_seq returning user_id, last_seq
    )
    insert into events (user_id, seq, id, type, at, actor, request_id, agent_id, payload)
    select user_id, last_seq - of_user + number, id, type, clock_timestamp(), actor, request_id, agent_id, payload::jsonb
    from given join counters using (user_id)`.execute(trx);
}

function agentOf({ agent_id: agent }: Record<string, unknown>): string | null {
  return typeof agent === 'string' ? agent : null;
}

/** The next events of a user after a number, oldest first. */
export async function readEvents(db: Kysely<Schema>, userId: string, afterSeq: number, limit: number): Promise<StoredEvent[]> {
  const rows = await db
    .selectFrom('events')
    .select(['seq', 'id', 'type', 'at', 'actor', 'request_id', 'payload'])
    .where('user_id', '=', userId)
    .where('seq', '>', afterSeq)
    .orderBy('seq')
    .limit(limit)
    .execute();
  return rows.map(({ request_id, ...row }) => ({ ...row, seq: Number(row.seq), requestId: request_id }));
}

/** The events of a user, as part of its deletion. */
export class Outbox {
  async erase(trx: Transaction<Schema>, userId: string): Promise<void> {
    await trx.deleteFrom('events').where('user_id', '=', userId).execute();
    await trx.deleteFrom('event_counters').where('user_id', '=', userId).execute();
  }
}
