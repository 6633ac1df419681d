import { type Kysely, sql } from 'kysely';

/** The first schema: everything from a user to a streamed answer. Times are the database's; ids are made by Berth. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db);
}

const STATEMENTS = [
  // One row: who this installation is. Its id is on disk as well, so that a cloned database cannot delete the other's containers.
  `create table installation (
    id text primary key,
    only_row boolean not null default true unique check (only_row),
    uid_base integer not null,
    next_uid integer not null,
    pepper bytea not null,
    key_check bytea not null,
    created_at timestamptz not null default now()
  )`,
  // Berth processes that share this database; a row without a recent heartbeat is a dead process.
  `create table processes (
    id text primary key,
    started_at timestamptz not null default now(),
    heartbeat_at timestamptz not null default now()
  )`,
  `create table tiers (
    name text primary key,
    max_agents integer not null,
    memory_mib integer not null,
    cpu_millis integer not null,
    pids integer not null,
    disk_mib integer not null,
    requests_per_minute integer not null,
    tokens_per_month bigint,
    idle_timeout_s integer,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
  )`,
  `insert into tiers (name, max_agents, memory_mib, cpu_millis, pids, disk_mib, requests_per_minute, tokens_per_month, idle_timeout_s) values
    ('free', 3, 256, 500, 128, 1024, 120, 1000000, 900),
    ('pro', 20, 1024, 1000, 256, 10240, 1200, 50000000, 3600),
    ('business', 200, 4096, 2000, 512, 102400, 12000, null, null)`,
  `create table users (
    id text primary key,
    name text not null,
    email bytea,
    tier text not null references tiers (name),
    data_key bytea not null,
    deleting_at timestamptz,
    version integer not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint users_name_key unique (name)
  )`,
  `create index users_deleting on users (deleting_at) where deleting_at is not null`,
  `create table deployments (
    id text primary key,
    user_id text not null references users (id),
    kind text not null check (kind in ('shared', 'dedicated')),
    desired text not null default 'running' check (desired in ('running', 'deleted')),
    network jsonb not null default '{"mode":"none"}',
    uid integer not null unique,
    volume text not null,
    generation integer not null default 0,
    config_version integer not null default 1,
    wish bigint not null default 1,
    state text not null default 'pending' check (state in ('pending', 'deploying', 'ready', 'failing', 'deleting')),
    stage text not null default 'queued',
    reason text,
    attempts integer not null default 0,
    stages jsonb not null default '[]',
    due_at timestamptz default now(),
    lease_owner text,
    lease_until timestamptz,
    lease_epoch bigint not null default 0,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
  )`,
  `create unique index deployments_one_shared on deployments (user_id) where kind = 'shared' and desired = 'running'`,
  `create index deployments_by_user on deployments (user_id)`,
  `create index deployments_due on deployments (due_at) where due_at is not null`,
  `create table agents (
    id text primary key,
    user_id text not null references users (id),
    deployment_id text not null references deployments (id),
    name text not null,
    description text,
    model text not null,
    instructions text,
    isolation text not null check (isolation in ('shared', 'dedicated')),
    isolation_reason text,
    network jsonb not null default '{"mode":"none"}',
    config_version integer not null,
    version integer not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint agents_name_key unique (user_id, name)
  )`,
  `create index agents_by_deployment on agents (deployment_id)`,
  `create table instances (
    id text primary key,
    deployment_id text not null references deployments (id),
    user_id text not null,
    generation integer not null,
    name text not null unique,
    spec_hash text not null,
    token_digest text not null,
    applied_version integer not null default 0,
    started_at timestamptz,
    runtime_started_at bigint,
    created_at timestamptz not null default now(),
    ended_at timestamptz,
    end_reason text,
    unique (deployment_id, generation)
  )`,
  // Two live instances of a deployment cannot exist: whoever comes second gets a unique violation.
  `create unique index instances_one_live on instances (deployment_id) where ended_at is null`,
  `create index instances_live on instances (created_at) where ended_at is null`,
  `create table api_keys (
    id text primary key,
    kind text not null check (kind in ('admin', 'user', 'agent')),
    user_id text references users (id) on delete cascade,
    agent_id text references agents (id) on delete cascade,
    name text not null,
    digest bytea not null,
    hint text not null,
    is_primary boolean not null default false,
    expires_at timestamptz,
    revoked_at timestamptz,
    created_at timestamptz not null default now(),
    check ((kind = 'admin') = (user_id is null)),
    check ((kind = 'agent') = (agent_id is not null))
  )`,
  `create index api_keys_by_user on api_keys (user_id)`,
  `create index api_keys_by_agent on api_keys (agent_id)`,
  `create table conversations (
    id text primary key,
    user_id text not null references users (id),
    agent_id text not null references agents (id) on delete cascade,
    external_user text,
    created_at timestamptz not null default now(),
    unique (agent_id, external_user)
  )`,
  `create index conversations_by_agent on conversations (user_id, agent_id, id)`,
  // The journal: one row a turn, opened before the gateway is asked, settled when it ended.
  `create table turns (
    id text primary key,
    user_id text not null references users (id),
    agent_id text not null references agents (id) on delete cascade,
    conversation_id text,
    process_id text not null,
    status text not null default 'running' check (status in ('running', 'finished', 'failed', 'cancelled')),
    messages jsonb not null,
    reply text,
    error text,
    prompt_tokens integer,
    completion_tokens integer,
    created_at timestamptz not null default now(),
    ended_at timestamptz
  )`,
  `create index turns_by_conversation on turns (conversation_id, id)`,
  `create index turns_by_agent on turns (agent_id, created_at)`,
  // For the deletion of a user alone, which would read every tenant's turns.
  `create index turns_by_user on turns (user_id)`,
  `create index turns_running on turns (created_at) where status = 'running'`,
  // The ledger: one row a model call, opened before the provider is asked. agent_id and agent stay when the agent is deleted.
  `create table usage (
    id text primary key,
    user_id text not null references users (id),
    deployment_id text not null,
    instance_id text not null,
    agent_id text,
    agent text,
    turn_id text,
    process_id text not null,
    model text not null,
    provider text not null,
    status text not null default 'open' check (status in ('open', 'finished', 'failed', 'cut_off')),
    prompt_tokens bigint not null default 0,
    completion_tokens bigint not null default 0,
    counted boolean not null default false,
    error text,
    started_at timestamptz not null default now(),
    ended_at timestamptz
  )`,
  `create index usage_by_user on usage (user_id, started_at)`,
  `create index usage_open on usage (started_at) where status = 'open'`,
  // Tokens of a user in a calendar month (UTC), kept beside the ledger so that a budget check reads one row.
  `create table usage_months (
    user_id text not null references users (id),
    month text not null,
    tokens bigint not null default 0,
    primary key (user_id, month)
  )`,
  `create table event_counters (
    user_id text primary key references users (id),
    last_seq bigint not null
  )`,
  `create table events (
    user_id text not null references users (id),
    seq bigint not null,
    id text not null,
    type text not null,
    at timestamptz not null default now(),
    actor text not null,
    request_id text,
    payload jsonb not null,
    xid xid8 not null default pg_current_xact_id(),
    primary key (user_id, seq)
  )`,
  `create table idempotency_keys (
    caller text not null,
    route text not null,
    key_digest text not null,
    body_digest text not null,
    attempt text not null,
    state text not null check (state in ('running', 'done')),
    lease_until timestamptz,
    status integer,
    answer bytea,
    user_id text references users (id) on delete cascade,
    created_at timestamptz not null default now(),
    primary key (caller, route, key_digest)
  )`,
  `create index idempotency_keys_by_age on idempotency_keys (created_at)`,
  `create index idempotency_keys_by_user on idempotency_keys (user_id) where user_id is not null`,
  // What is left of a deleted user: digests only (DESIGN, erasure).
  `create table deletions (
    user_digest text primary key,
    deleted_at timestamptz not null default now()
  )`,
];
