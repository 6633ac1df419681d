import { type Kysely, sql } from 'kysely';

/** What shapes agents by text: template files in all their versions, and the variables that a user defines for them. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db);
}

const STATEMENTS = [
  // One row a version. Without an agent: the user's default. Without text: from that version on the layer below holds again.
  `create table templates (
    id text primary key,
    user_id text not null references users (id),
    agent_id text references agents (id) on delete cascade,
    file text not null,
    version integer not null,
    text text,
    is_current boolean not null default true,
    kept_bytes bigint not null,
    actor text not null,
    created_at timestamptz not null default now(),
    constraint templates_version_key unique nulls not distinct (user_id, agent_id, file, version)
  )`,
  `create unique index templates_current on templates (user_id, agent_id, file) nulls not distinct where is_current`,
  `create index templates_by_agent on templates (agent_id) where agent_id is not null`,
  `create table template_variables (
    user_id text primary key references users (id),
    variables jsonb not null,
    version integer not null default 1,
    updated_at timestamptz not null default now()
  )`,
];
