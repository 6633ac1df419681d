import {
  type ExpressionBuilder,
  type Kysely,
  type OnConflictBuilder,
  type QueryCreator,
  sql,
  type Transaction,
  type UpdateQueryBuilder,
} from 'kysely';
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
      qb.insertInto('event_counters').values({ user_id: userId, last_seq: 1 }).onConflict(oneMore).returning('last_seq'),
    )
    .insertInto('events')
    .columns(EVENT_COLUMNS)
    .expression((eb) => eb.selectFrom('counter').select((counter) => eventColumns(counter, userId, event)))
    .returning('seq')
    .executeTakeFirstOrThrow();
  return Number(seq);
}

/**
 * Makes the one change that an event says, and writes the event, in one statement that is a transaction by itself: for what somebody waits for, one
 * round trip in place of four. Where the change finds no row nothing is written; answers whether it found one.
 */
export function changeSaying<T extends keyof Schema>(
  db: Kysely<Schema>,
  userId: string,
  event: NewEvent,
  change: (db: QueryCreator<Schema>) => UpdateQueryBuilder<Schema, T, T, { id: string }>,
): Promise<boolean> {
  return db.connection().execute(async (alone) => {
    const changed = await alone
      .with('changed', change)
      .with('counter', (qb) =>
        qb
          .insertInto('event_counters')
          .columns(['user_id', 'last_seq'])
          .expression((eb) =>
            eb
              .selectFrom('changed')
              .select([eb.val(userId).as('user_id'), sql<string>`1`.as('last_seq')])
              .limit(1),
          )
          .onConflict(oneMore)
          .returning('last_seq'),
      )
      .with('said', (qb) =>
        qb
          .insertInto('events')
          .columns(EVENT_COLUMNS)
          .expression((eb) => eb.selectFrom('counter').select((counter) => eventColumns(counter, userId, event))),
      )
      .selectFrom('changed')
      .select('id')
      .executeTakeFirst();
    if (changed) await alone.getExecutor().provideConnection(async (connection) => noteWritten(connection, userId));
    return changed !== undefined;
  });
}

const EVENT_COLUMNS = ['user_id', 'seq', 'id', 'type', 'at', 'actor', 'request_id', 'agent_id', 'payload'] as const;

/** A user's counter goes up by one, and is locked until the commit. */
function oneMore(conflict: OnConflictBuilder<Schema, 'event_counters'>) {
  return conflict.column('user_id').doUpdateSet((eb) => ({ last_seq: eb('event_counters.last_seq', '+', 1) }));
}

/** The columns of an event, in their order, where `counter` is what the user's counter says. */
function eventColumns(eb: ExpressionBuilder<{ counter: { last_seq: string } }, 'counter'>, userId: string, event: NewEvent) {
  return [
    eb.val(userId).as('user_id'),
    eb.ref('counter.last_seq').as('seq'),
    eb.val(newId('evt')).as('id'),
    eb.val(event.type).as('type'),
    // Not the column's now(), which is when the transaction began: times should not run against the numbers.
    eb.fn<Date>('clock_timestamp').as('at'),
    eb.val(event.actor).as('actor'),
    eb.val(event.requestId).as('request_id'),
    eb.val(agentOf(event.payload)).as('agent_id'),
    sql`${JSON.stringify(event.payload)}::jsonb`.as('payload'),
  ];
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
