import type { Generated } from 'kysely';

/** One row an agent: when it is woken next. */
export interface HeartbeatsTable {
  agent_id: string;
  user_id: string;
  every_ms: string | number;
  /** null: not to be woken. By the database's clock. */
  next_at: Date | null;
  /** Where its beats are journaled, apart from its users' conversations. */
  conversation_id: string | null;
}

/** How a beat ended. `quiet`: there was nothing to do; `lost`: the process that ran it died. */
export type BeatStatus = 'running' | 'quiet' | 'replied' | 'failed' | 'skipped' | 'lost';

export interface HeartbeatRunsTable {
  id: string;
  user_id: string;
  agent_id: string;
  process_id: string;
  origin: 'schedule' | 'manual';
  status: BeatStatus;
  /** Why it failed or was skipped, in plain words. */
  reason: string | null;
  reply: string | null;
  turn_id: string | null;
  prompt_tokens: number | null;
  completion_tokens: number | null;
  started_at: Generated<Date>;
  ended_at: Date | null;
}
