import { type Kysely, sql } from 'kysely';

/** Secrets of users and of single agents, and the rotation of the master key that everything sealed rests on. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db);
}

const STATEMENTS = [
  // One row a user that has, or had, secrets. The version rises with every change of any of them.
  `create table secret_stores (
    user_id text primary key references users (id),
    version integer not null default 0,
    box_id text,
    box_public bytea,
    box_private bytea
  )`,
  // scope is bound into the sealed value with name and version: a row that was moved or put back does not open.
  `create table secrets (
    id text primary key,
    user_id text not null references users (id),
    agent_id text references agents (id) on delete cascade,
    scope text not null,
    name text not null,
    version integer not null,
    value bytea not null,
    shared_confirmed boolean not null default false,
    last_used_at timestamptz,
    last_used_by text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint secrets_name_key unique (scope, name),
    check (scope = coalesce(agent_id, user_id))
  )`,
  `create index secrets_by_user on secrets (user_id)`,
  `create index secrets_by_agent on secrets (agent_id) where agent_id is not null`,
  // Changes of the master key, one at a time. Keys are named by their ids, which tell nothing about them.
  `create table vault_rotations (
    id text primary key,
    from_key text not null,
    to_key text not null,
    state text not null default 'preparing' check (state in ('preparing', 'sealing', 'finishing', 'done')),
    reason text,
    total integer not null default 0,
    sealed integer not null default 0,
    started_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    ended_at timestamptz
  )`,
  `create unique index vault_rotations_one on vault_rotations ((true)) where state <> 'done'`,
  // Which master keys each Berth process has: nothing is sealed under one that another process cannot open.
  `create table vault_keyrings (
    process_id text primary key,
    known text not null,
    sealing text not null,
    updated_at timestamptz not null default now()
  )`,
];
