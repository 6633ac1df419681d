import { type Kysely, sql } from 'kysely';

/** What shapes a single agent's turns and its container, version by version; and what went out to the internet. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db);
}

const STATEMENTS = [
  // The newest version counts. Model and network have their truth in the agent's row; here they are as they were at that version.
  `create table agent_configs (
    id text primary key,
    user_id text not null references users (id),
    agent_id text not null references agents (id) on delete cascade,
    version integer not null,
    document jsonb not null,
    changed jsonb not null,
    actor text,
    created_at timestamptz not null default now(),
    unique (agent_id, version)
  )`,
  `create index agent_configs_by_user on agent_configs (user_id)`,
  // What a deployment of one agent is made of, where that is less than the tier allows, or another image than the usual one.
  `alter table deployments add column limits jsonb, add column image text`,
  // A row for each host and day; what is too many for a day goes under the host *. Counters only: no paths, nothing of what was said.
  `create table egress_traffic (
    user_id text not null references users (id),
    deployment_id text not null,
    day date not null,
    host text not null,
    port integer not null,
    connections bigint not null default 0,
    refused bigint not null default 0,
    bytes_up bigint not null default 0,
    bytes_down bigint not null default 0,
    last_at timestamptz not null default now(),
    primary key (deployment_id, day, host, port)
  )`,
  `create index egress_traffic_by_user on egress_traffic (user_id)`,
  `create index egress_traffic_by_day on egress_traffic (day)`,
];
