import type { Generated, JSONColumnType } from 'kysely';

/** The last sequence number given out to a user; its row is taken last in a transaction, so numbers appear in commit order. */
export interface EventCountersTable {
  user_id: string;
  last_seq: string | number;
}

export interface EventsTable {
  user_id: string;
  seq: string | number;
  id: string;
  /** `domain.action`. */
  type: string;
  at: Generated<Date>;
  actor: string;
  request_id: string | null;
  /** The agent that it is about, if it is about one. */
  agent_id: string | null;
  payload: JSONColumnType<Record<string, unknown>, string, string>;
  /** The transaction that wrote it: readers across tenants stop at the oldest one that still runs (DESIGN, outbox order). */
  xid: Generated<string>;
}
