import { type Kysely, sql } from 'kysely';

/** Where what instances print is kept: a stream of segments a user on disk, written by the process that holds its lease. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db);
}

const STATEMENTS = [
  `alter table tiers add column log_days integer not null default 7`,
  `alter table tiers add column log_mib integer not null default 32`,
  `update tiers set log_days = 30, log_mib = 256 where name = 'pro'`,
  `update tiers set log_days = 90, log_mib = 2048 where name = 'business'`,
  `create table log_streams (
    user_id text primary key references users (id),
    lease_owner text,
    lease_until timestamptz,
    lease_epoch bigint not null default 0,
    last_segment integer not null default 0,
    waiting text
  )`,
  `create index log_streams_by_owner on log_streams (lease_owner) where lease_owner is not null`,
  `create table log_segments (
    user_id text not null references users (id),
    number integer not null,
    bytes bigint not null default 0,
    lines bigint not null default 0,
    gaps integer not null default 0,
    from_at timestamptz,
    to_at timestamptz,
    opened_at timestamptz not null default now(),
    sealed_at timestamptz,
    primary key (user_id, number)
  )`,
];
