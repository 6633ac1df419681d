import type { Generated } from 'kysely';

export type UsageStatus = 'open' | 'finished' | 'failed' | 'cut_off';

export interface UsageTable {
  id: string;
  user_id: string;
  deployment_id: string;
  instance_id: string;
  agent_id: string | null;
  agent: string | null;
  turn_id: string | null;
  process_id: string;
  model: string;
  provider: string;
  /** 2 or more: the same call as the one before it, which was lost with the Berth process that it ran through. */
  attempt: Generated<number>;
  status: Generated<UsageStatus>;
  prompt_tokens: Generated<string | number>;
  completion_tokens: Generated<string | number>;
  /** Whether Berth counted because the provider gave no figures. */
  counted: Generated<boolean>;
  error: string | null;
  started_at: Generated<Date>;
  ended_at: Date | null;
}

export interface UsageMonthsTable {
  user_id: string;
  /** `YYYY-MM`, UTC. */
  month: string;
  tokens: Generated<string | number>;
}
