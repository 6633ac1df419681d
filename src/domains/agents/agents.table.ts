import type { Generated } from 'kysely';
import type { NetworkPolicy } from '../deployments/deployments.table.js';

export interface AgentsTable {
  id: string;
  user_id: string;
  deployment_id: string;
  /** The OpenClaw agent id; unique within its user. */
  name: string;
  description: string | null;
  /** `provider/model`. */
  model: string;
  instructions: string | null;
  isolation: 'shared' | 'dedicated';
  /** Why Berth placed it in a deployment of its own, when it was not asked to. */
  isolation_reason: string | null;
  network: NetworkPolicy;
  /** `stopped`: no turn of it may run; its files stay within reach. */
  desired: Generated<'running' | 'stopped'>;
  /** While it moves to another deployment: the one where its files still are. */
  moving_from: string | null;
  /** Until then a process works on the move. */
  moving_until: Date | null;
  /** Names its state on the volume; null: its id. Another one is another state under the same name. */
  incarnation: Generated<string | null>;
  /** While a state is put in place: its first one, so that no gateway knows of the agent yet, or another one again. */
  arriving: Generated<'new' | 'again' | null>;
  /** The incoming instance that has taken it over; null: the deployment's current one serves it. */
  served_by: Generated<string | null>;
  /** The deployment's config version that first holds the agent as it is now. */
  config_version: number;
  /** Goes up with each change after which its heartbeat may be another one. */
  beat_wish: Generated<string>;
  /** The wish by which its heartbeat was decided last. */
  beat_planned: Generated<string>;
  version: Generated<number>;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
}
