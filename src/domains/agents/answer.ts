import type { Stage } from '../deployments/deployments.table.js';
import type { AgentAnswer } from './agents.schema.js';
import type * as store from './agents.store.js';

/** Why an agent is not served now, in plain words. */
export function whyNot(row: {
  state: string;
  stage: Stage;
  reason: string | null;
  moving_from: string | null;
  arriving: string | null;
}): string {
  if (row.arriving !== null) return 'its state is being put in place: see its restores';
  if (row.moving_from !== null) return 'its files are being moved to a container of its own';
  if (row.state === 'asleep') return 'it sleeps and is being woken';
  if (row.state === 'ready') return 'its configuration is being applied';
  return row.reason ?? STAGE_WORDS[row.stage];
}

const STAGE_WORDS: Record<Stage, string> = {
  queued: 'its container is waiting to be made',
  creating: 'its container is being made',
  starting: 'its container is starting',
  connecting: 'its container is connecting',
  configuring: 'its configuration is being applied',
  ready: 'it is not running',
};

function statusOf(row: store.AgentRow): AgentAnswer['status'] {
  if (row.desired === 'stopped') return 'stopped';
  if (row.moving_from !== null) return 'moving';
  if (row.arriving !== null) return 'restoring';
  const waits = row.deployment_state === 'ready' && (row.applied_version ?? 0) < row.config_version;
  return waits ? 'deploying' : row.deployment_state;
}

/** The agent as the API answers it. */
export function answerOf(row: store.AgentRow): AgentAnswer {
  return {
    id: row.id,
    name: row.name,
    user_id: row.user_id,
    description: row.description,
    model: row.model,
    instructions: row.instructions,
    isolation: row.isolation,
    isolation_reason: row.isolation_reason,
    network: row.network,
    deployment_id: row.deployment_id,
    status: statusOf(row),
    version: row.version,
    created_at: row.created_at.toISOString(),
    updated_at: row.updated_at.toISOString(),
  };
}
