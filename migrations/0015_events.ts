import { type Kysely, sql } from 'kysely';

/** Events that can be listed by type and agent, and are forgotten with age; tickets that open a WebSocket once. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db);
}

const STATEMENTS = [
  `alter table events add column agent_id text`,
  `update events set agent_id = payload->>'agent_id' where payload ? 'agent_id'`,
  `create index events_by_agent on events (user_id, agent_id, seq) where agent_id is not null`,
  `create index events_by_type on events (user_id, type text_pattern_ops, seq)`,
  // For what is older than the retention.
  `create index events_by_age on events (at)`,
  // For readers across tenants, which read in the order of transactions.
  `create index events_by_transaction on events (xid, user_id, seq)`,
  `create table socket_tickets (
    digest text primary key,
    user_id text not null references users (id) on delete cascade,
    key_id text not null,
    expires_at timestamptz not null
  )`,
  `create index socket_tickets_by_user on socket_tickets (user_id)`,
  `create index socket_tickets_by_age on socket_tickets (expires_at)`,
];
