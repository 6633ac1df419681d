import { type Kysely, sql } from 'kysely';

/** When agents are woken, and what came of it. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db);
}

const STATEMENTS = [
  // next_at null: not to be woken. planned: what of the agent that was decided by; another value means that it is to be decided anew.
  `create table heartbeats (
    agent_id text primary key references agents (id) on delete cascade,
    user_id text not null references users (id),
    every_ms bigint not null,
    next_at timestamptz,
    planned text not null,
    conversation_id text
  )`,
  `create index heartbeats_due on heartbeats (next_at) where next_at is not null`,
  `create index heartbeats_by_user on heartbeats (user_id)`,
  `create table heartbeat_runs (
    id text primary key,
    user_id text not null references users (id),
    agent_id text not null references agents (id) on delete cascade,
    process_id text not null,
    origin text not null check (origin in ('schedule', 'manual')),
    status text not null check (status in ('running', 'quiet', 'replied', 'failed', 'skipped', 'lost')),
    reason text,
    reply text,
    turn_id text,
    prompt_tokens integer,
    completion_tokens integer,
    started_at timestamptz not null default now(),
    ended_at timestamptz
  )`,
  // Two runs of an agent at a time cannot exist: whoever comes second gets a unique violation.
  `create unique index heartbeat_runs_one_running on heartbeat_runs (agent_id) where status = 'running'`,
  `create index heartbeat_runs_running on heartbeat_runs (user_id) where status = 'running'`,
  `create index heartbeat_runs_by_agent on heartbeat_runs (agent_id, id)`,
  `create index heartbeat_runs_by_user on heartbeat_runs (user_id)`,
  `create index heartbeat_runs_by_age on heartbeat_runs (started_at)`,
];
