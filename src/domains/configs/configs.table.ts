import type { Generated } from 'kysely';
import type { ConfigDocument } from './configs.schema.js';

/** What an agent's config says at a version. The newest one counts, but for `model` and `network`, whose truth is the agent's row. */
export interface AgentConfigsTable {
  id: string;
  user_id: string;
  agent_id: string;
  version: number;
  document: ConfigDocument;
  /** Top-level fields that differ from the version before. */
  changed: string[];
  /** Who made it; null where it records what another route had changed. */
  actor: string | null;
  created_at: Generated<Date>;
}
