import type { Generated } from 'kysely';

/** What a deployment exchanged with a host in a day (UTC). Hosts beyond so many a day are counted together, as `*` and port 0. */
export interface EgressTrafficTable {
  user_id: string;
  deployment_id: string;
  day: Date | string;
  host: string;
  port: number;
  /** bigint: text from the driver. */
  connections: Generated<string | number>;
  /** Refused by the network policy, or failed. */
  refused: Generated<string | number>;
  bytes_up: Generated<string | number>;
  bytes_down: Generated<string | number>;
  last_at: Generated<Date>;
}
