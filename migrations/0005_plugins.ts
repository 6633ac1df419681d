import { type Kysely, sql } from 'kysely';

/** Plugins, packages of skills and tools, and which agent has which. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db);
}

const STATEMENTS = [
  // No user: the installation's own, which every user may give to agents. json and not jsonb: the order of a schema's fields is its author's.
  `create table plugins (
    id text primary key,
    user_id text references users (id),
    name text not null,
    description text,
    version text not null,
    enabled boolean not null default true,
    skills json not null,
    tools json not null,
    revision integer not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
  )`,
  `create unique index plugins_name_key on plugins (user_id, name) where user_id is not null`,
  `create unique index plugins_installation_name_key on plugins (name) where user_id is null`,
  // The lower the number, the sooner a plugin's tools are taken.
  `create table agent_plugins (
    agent_id text not null references agents (id) on delete cascade,
    plugin_id text not null references plugins (id) on delete cascade,
    user_id text not null references users (id),
    priority integer not null,
    assigned_at timestamptz not null default now(),
    primary key (agent_id, plugin_id)
  )`,
  `create index agent_plugins_by_plugin on agent_plugins (plugin_id)`,
  `create index agent_plugins_by_user on agent_plugins (user_id)`,
];
