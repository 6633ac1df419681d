import { type Kysely, sql } from 'kysely';

/** Rules on what happens and on what is measured, the inbox that they fill, and the channels that its entries go out by. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db);
}

const STATEMENTS = [
  // target: a URL or an address, sealed, since it may hold a token or name a person. A channel is worked on by whoever holds its lease.
  `create table notification_channels (
    id text primary key,
    user_id text not null references users (id),
    kind text not null check (kind in ('webhook', 'slack', 'email')),
    name text not null,
    target bytea not null,
    target_version integer not null default 1,
    target_hint text not null,
    secret bytea,
    quiet jsonb,
    critical_anytime boolean not null default true,
    enabled boolean not null default true,
    disabled_reason text,
    failing_since timestamptz,
    confirmed_at timestamptz,
    code bytea,
    code_until timestamptz,
    code_tries integer not null default 0,
    lease_by text,
    lease_until timestamptz,
    version integer not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
  )`,
  `create index notification_channels_by_user on notification_channels (user_id, id)`,
  // from_seq: a rule on events begins after that one. next_check_at: of the others, when they are measured next.
  `create table notification_rules (
    id text primary key,
    user_id text not null references users (id),
    name text not null,
    kind text not null check (kind in ('event', 'spend', 'error_rate', 'restarts', 'silence')),
    severity text not null check (severity in ('info', 'warning', 'critical')),
    enabled boolean not null default true,
    agent_id text,
    condition jsonb not null,
    dedupe_s integer not null,
    repeat_after_s integer,
    notify_resolved boolean not null default true,
    state text not null default 'ok' check (state in ('ok', 'firing')),
    value double precision,
    fired_at timestamptz,
    notified_at timestamptz,
    from_seq bigint,
    enabled_at timestamptz not null default now(),
    next_check_at timestamptz,
    version integer not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
  )`,
  `create index notification_rules_by_user on notification_rules (user_id, id)`,
  `create index notification_rules_due on notification_rules (next_check_at) where enabled and next_check_at is not null`,
  `create table notification_rule_channels (
    rule_id text not null references notification_rules (id) on delete cascade,
    channel_id text not null references notification_channels (id) on delete cascade,
    user_id text not null,
    primary key (rule_id, channel_id)
  )`,
  `create index notification_rule_channels_by_channel on notification_rule_channels (channel_id)`,
  // position: the number of the last event that the user's rules were held against. Whoever has the row locked moves it.
  `create table notification_readers (
    user_id text primary key references users (id),
    position bigint not null
  )`,
  // rule_id stays when the rule is deleted. count: how often it happened, the last time at last_at.
  `create table notifications (
    id text primary key,
    user_id text not null references users (id),
    rule_id text,
    kind text not null check (kind in ('event', 'firing', 'resolved', 'notice')),
    severity text not null check (severity in ('info', 'warning', 'critical')),
    title text not null,
    text text not null,
    agent_id text,
    data jsonb not null,
    dedupe_key text not null,
    count integer not null default 1,
    read_at timestamptz,
    created_at timestamptz not null default now(),
    last_at timestamptz not null default now()
  )`,
  `create index notifications_by_user on notifications (user_id, id)`,
  `create index notifications_unread on notifications (user_id, id) where read_at is null`,
  `create index notifications_by_rule on notifications (rule_id, created_at)`,
  `create index notifications_by_age on notifications (created_at)`,
  `create table notification_deliveries (
    id text primary key,
    notification_id text not null references notifications (id) on delete cascade,
    channel_id text not null references notification_channels (id) on delete cascade,
    user_id text not null,
    status text not null default 'pending' check (status in ('pending', 'delivered', 'failed')),
    tries integer not null default 0,
    next_at timestamptz,
    error text,
    created_at timestamptz not null default now(),
    ended_at timestamptz,
    unique (notification_id, channel_id)
  )`,
  `create index notification_deliveries_by_channel on notification_deliveries (channel_id, created_at)`,
  `create index notification_deliveries_due on notification_deliveries (next_at, channel_id) where status = 'pending'`,
  // Mails that somebody asked for by hand, so that nobody is mailed without end. The digest is of the address.
  `create table notification_mails (
    id text primary key,
    user_id text not null references users (id),
    purpose text not null check (purpose in ('code', 'test')),
    address_digest text not null,
    sent_at timestamptz not null default now()
  )`,
  `create index notification_mails_by_user on notification_mails (user_id, sent_at)`,
  `create index notification_mails_by_address on notification_mails (address_digest, sent_at)`,
  `create index notification_mails_by_age on notification_mails (sent_at)`,
];
