import { type Kysely, sql } from 'kysely';

/** Webhooks, what was sent to them, and what they answered. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db);
}

const STATEMENTS = [
  // position: the number of the last event that was looked at. A webhook is worked on by whoever holds its lease.
  `create table webhooks (
    id text primary key,
    user_id text not null references users (id),
    url text not null,
    description text,
    events text[] not null,
    secret bytea not null,
    secret_version integer not null default 1,
    old_secret bytea,
    old_secret_version integer,
    old_secret_until timestamptz,
    enabled boolean not null default true,
    disabled_reason text,
    position bigint not null,
    failing_since timestamptz,
    lease_by text,
    lease_until timestamptz,
    version integer not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
  )`,
  `create index webhooks_by_user on webhooks (user_id, id)`,
  // in_order: what comes later waits for it. The body is kept as it was signed for, so that every attempt sends the same bytes.
  `create table webhook_deliveries (
    id text primary key,
    webhook_id text not null references webhooks (id) on delete cascade,
    user_id text not null,
    event_id text not null,
    type text not null,
    body text not null,
    status text not null default 'pending' check (status in ('pending', 'delivered', 'failed')),
    in_order boolean not null default true,
    tries integer not null default 0,
    next_at timestamptz,
    created_at timestamptz not null default now(),
    ended_at timestamptz
  )`,
  `create unique index webhook_deliveries_by_event on webhook_deliveries (webhook_id, event_id)`,
  `create index webhook_deliveries_by_webhook on webhook_deliveries (webhook_id, id)`,
  `create index webhook_deliveries_due on webhook_deliveries (webhook_id, next_at) where status = 'pending'`,
  `create index webhook_deliveries_by_age on webhook_deliveries (created_at)`,
  `create table webhook_attempts (
    delivery_id text not null references webhook_deliveries (id) on delete cascade,
    n integer not null,
    at timestamptz not null default now(),
    ms integer not null,
    status integer,
    error text,
    response text,
    primary key (delivery_id, n)
  )`,
];
