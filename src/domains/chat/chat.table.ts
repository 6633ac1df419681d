import type { Generated, JSONColumnType } from 'kysely';

export interface ConversationsTable {
  id: string;
  user_id: string;
  agent_id: string;
  /** The `user` field of the OpenAI-compatible API, where the conversation came from there. */
  external_user: string | null;
  /** What the gateway knows it by; null: its id. */
  memory_key: Generated<string | null>;
  title: Generated<string | null>;
  last_turn_at: Generated<Date>;
  created_at: Generated<Date>;
}

export interface TurnsTable {
  id: string;
  user_id: string;
  agent_id: string;
  /** null for a stateless call of the OpenAI-compatible API. */
  conversation_id: string | null;
  process_id: string;
  status: Generated<'running' | 'finished' | 'failed' | 'cancelled'>;
  /** The new messages of this turn as they came. */
  messages: JSONColumnType<unknown[], string, string>;
  reply: string | null;
  error: string | null;
  prompt_tokens: number | null;
  completion_tokens: number | null;
  /** Whether its events are written down as they come, so that another process can take it over. */
  kept: Generated<boolean>;
  /** Whether it goes on when its client has gone. */
  resumable: Generated<boolean>;
  /** The instance that was asked. Of a kept turn from before it was asked: null: surely none was. */
  instance_id: Generated<string | null>;
  /** Since when it is to end. */
  cancel_at: Generated<Date | null>;
  finish_reason: Generated<string | null>;
  error_code: Generated<string | null>;
  /** Of the caller, the route and the `Idempotency-Key` of its request: digests. */
  once_key: Generated<string | null>;
  once_body: Generated<string | null>;
  /** What was said, to be searched; null while it runs, and of a stateless call. */
  words: Generated<string | null>;
  created_at: Generated<Date>;
  ended_at: Date | null;
}

/** What a kept turn said, some events a row: a JSON list (turn-event.ts). Rows may overlap. */
export interface TurnEventsTable {
  turn_id: string;
  user_id: string;
  from_seq: number;
  to_seq: number;
  events: string;
  created_at: Generated<Date>;
}

/** Deleted conversations of which an instance may still keep something. */
export interface ForgottenConversationsTable {
  conversation_id: string;
  /** What the gateway knows it by. */
  memory_key: string;
  user_id: string;
  agent_id: string;
  tried_at: Generated<Date>;
}
