import { type Kysely, sql } from 'kysely';

/**
 * Snapshots of agents, and what puts them in place again. A snapshot's bytes are in a file beside the database; its row is the truth. What is
 * pending is worked on by whoever holds it, and begun anew where that process died.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db);
}

const STATEMENTS = [
  // null: the agent's id. Another value under the same name is another state.
  `alter table agents add column incarnation text`,
  `alter table agents add column arriving text check (arriving in ('new', 'again'))`,
  // What the gateway calls the conversation; null: its id. It is another one where the conversation came with a copy of its agent.
  `alter table conversations add column memory_key text`,
  `create table snapshots (
    id text primary key,
    user_id text not null references users (id),
    agent_id text not null,
    agent_name text not null,
    kind text not null check (kind in ('manual', 'scheduled', 'before_restore', 'duplicate', 'last', 'imported')),
    state text not null default 'pending' check (state in ('pending', 'ready', 'failed')),
    note text,
    reason text,
    settings jsonb not null,
    incarnation text,
    deployment_id text,
    config_version integer,
    stream_key bytea,
    contents jsonb,
    bytes bigint not null default 0,
    held_until timestamptz,
    expires_at timestamptz,
    created_at timestamptz not null default now(),
    taken_at timestamptz
  )`,
  `create index snapshots_by_agent on snapshots (user_id, agent_id, id)`,
  `create index snapshots_pending on snapshots (held_until, id) where state = 'pending'`,
  `create index snapshots_last on snapshots (deployment_id) where state = 'pending' and kind = 'last'`,
  `create index snapshots_expiring on snapshots (expires_at) where expires_at is not null`,
  // What an agent that is deleted said, until it is in its last snapshot.
  `create table kept_lines (
    snapshot_id text not null references snapshots (id) on delete cascade,
    user_id text not null,
    position integer not null,
    line text not null,
    primary key (snapshot_id, position)
  )`,
  `create table restores (
    id text primary key,
    user_id text not null references users (id),
    agent_id text not null references agents (id) on delete cascade,
    snapshot_id text,
    before_id text,
    kind text not null check (kind in ('in_place', 'duplicate', 'imported', 'undelete')),
    state text not null default 'pending' check (state in ('pending', 'done', 'failed')),
    reason text,
    settings jsonb,
    left_out jsonb not null default '[]',
    turns_removed integer,
    actor text not null,
    held_until timestamptz,
    created_at timestamptz not null default now(),
    ended_at timestamptz
  )`,
  `create unique index restores_one_pending on restores (agent_id) where state = 'pending'`,
  `create index restores_by_agent on restores (user_id, agent_id, id)`,
  `create index restores_pending on restores (held_until, id) where state = 'pending'`,
  `create index restores_of_snapshot on restores (snapshot_id) where state = 'pending'`,
  `create table snapshot_schedules (
    agent_id text primary key references agents (id) on delete cascade,
    user_id text not null references users (id),
    cron text,
    time_zone text,
    every_s integer,
    keep integer not null,
    next_at timestamptz not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
  )`,
  `create index snapshot_schedules_by_user on snapshot_schedules (user_id)`,
  `create index snapshot_schedules_due on snapshot_schedules (next_at)`,
];
