import type { Generated, JSONColumnType } from 'kysely';

export interface ConversationsTable {
  id: string;
  user_id: string;
  agent_id: string;
  /** The `user` field of the OpenAI-compatible API, where the conversation came from there. */
  external_user: string | null;
  /** What the gateway knows it by; null: its id. */
  memory_key: Generated<string | null>;
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
  created_at: Generated<Date>;
  ended_at: Date | null;
}
