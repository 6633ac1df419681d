import type { Generated } from 'kysely';

export interface TiersTable {
  name: string;
  max_agents: number;
  memory_mib: number;
  cpu_millis: number;
  pids: number;
  disk_mib: number;
  requests_per_minute: number;
  /** bigint: text from the driver. null = no limit. */
  tokens_per_month: string | number | null;
  /** Seconds without work after which a deployment may sleep. null = never. */
  idle_timeout_s: number | null;
  /** How long, and how much, of what a user's containers print is kept. */
  log_days: Generated<number>;
  log_mib: Generated<number>;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
}
