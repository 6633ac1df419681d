import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { appendEvent } from '../../events/outbox.js';
import { actorOf, type Caller } from '../../lib/caller.js';
import { AppError } from '../../lib/errors.js';
import type { Deployments } from '../deployments/deployments.js';
import * as store from './agents.store.js';

/** What is kept of an agent that is deleted, so that it can be brought back. It belongs to a domain above this one. */
export interface Farewell {
  /** Gathers, before anything is changed, what must be known of the agent; undefined where nothing is to be kept. */
  gather(userId: string, agent: string): Promise<((trx: Transaction<Schema>, gone: Departing) => Promise<void>) | undefined>;
}

/** An agent on its way out, and where its files are. */
export interface Departing {
  id: string;
  name: string;
  /** undefined: it never began, so that it has no state. */
  incarnation: string | undefined;
  deploymentId: string;
  /** What the deployment's gateway is told of it comes with the next config version, and not before this one. */
  configVersion: number;
}

/** Deletes an agent and all that is only its; answers it as it was. Its files go with the next word to its gateway, or once they were saved. */
export async function deleteAgent(
  { db, deployments, farewell }: { db: Kysely<Schema>; deployments: Deployments; farewell: Farewell | undefined },
  userId: string,
  agent: string,
  caller: Caller,
  requestId: string,
): Promise<store.AgentRow> {
  const keep = await farewell?.gather(userId, agent);
  return db.transaction().execute(async (trx) => {
    // One after the other, or none of two deletions would be the last one, and a create could move in as the place is given up.
    if (!(await store.lockUser(trx, userId))) throw new AppError('not_found', 'user not found');
    const found = await store.findAgent(trx, userId, agent);
    if (!found) throw new AppError('not_found', 'agent not found');
    const { id, name, moving_from, deployment_id } = found;
    if (keep) {
      const deploymentId = moving_from ?? deployment_id;
      const configVersion = await deployments.changed(trx, userId, deploymentId);
      const incarnation = found.arriving === 'new' ? undefined : (found.incarnation ?? id);
      await keep(trx, { id, name, incarnation, deploymentId, configVersion });
    }
    await store.deleteAgent(trx, userId, id);
    await deployments.agentLeft(trx, userId, deployment_id);
    if (moving_from !== null) await deployments.agentLeft(trx, userId, moving_from);
    await appendEvent(trx, userId, { type: 'agent.deleted', actor: actorOf(caller), requestId, payload: { agent_id: id } });
    return found;
  });
}
