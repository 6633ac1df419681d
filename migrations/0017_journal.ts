import { type Kysely, sql } from 'kysely';

/** Turns that outlive the process that relays them: what they said event by event, and what is needed to take them over. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db);
}

const STATEMENTS = [
  // instance_id: who was asked; of a kept turn written before it is asked: null = surely nobody. once_key: of a request with an Idempotency-Key.
  `alter table turns
    add column kept boolean not null default false,
    add column resumable boolean not null default false,
    add column instance_id text,
    add column cancel_at timestamptz,
    add column finish_reason text,
    add column error_code text,
    add column once_key text,
    add column once_body text`,
  `create index turns_running_in on turns (conversation_id) where status = 'running'`,
  `create unique index turns_once on turns (user_id, once_key) where once_key is not null`,
  // Several events a row, as they were written down together. Rows may overlap, never have gaps between them.
  `create table turn_events (
    turn_id text not null references turns (id) on delete cascade,
    user_id text not null,
    from_seq integer not null,
    to_seq integer not null,
    events text not null,
    created_at timestamptz not null default now(),
    primary key (turn_id, from_seq)
  )`,
  `create index turn_events_by_age on turn_events (created_at)`,
  `alter table conversations
    add column title text,
    add column last_turn_at timestamptz not null default now()`,
  // What instances have yet to forget.
  `create table forgotten_conversations (
    conversation_id text primary key,
    memory_key text not null,
    user_id text not null,
    agent_id text not null references agents (id) on delete cascade,
    tried_at timestamptz not null default now()
  )`,
  `create index forgotten_conversations_by_age on forgotten_conversations (tried_at)`,
  `create index forgotten_conversations_by_agent on forgotten_conversations (agent_id)`,
  // The words of a turn that has ended, its user's id among them: with that a search costs as much as the tenant has said.
  `alter table turns add column words tsvector`,
  `create index turns_words on turns using gin (words)`,
  `create index conversations_by_use on conversations (user_id, last_turn_at, id)`,
  `alter table usage add column attempt integer not null default 1`,
  `create index usage_by_turn on usage (turn_id) where turn_id is not null`,
];
