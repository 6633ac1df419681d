import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { appendEvent } from '../../events/outbox.js';
import { AppError } from '../../lib/errors.js';
import type { By, Deployments } from '../deployments/deployments.js';
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

interface Parts {
  db: Kysely<Schema>;
  deployments: Deployments;
  farewell: Farewell | undefined;
}

/** Deletes agents and all that is only theirs; answers them as they were. Their files go with the next word to their gateway, or once they were saved. */
export async function deleteAgents(
  { db, deployments, farewell }: Parts,
  userId: string,
  agents: string[],
  by: By,
  check?: (trx: Transaction<Schema>) => Promise<void>,
): Promise<store.AgentRow[]> {
  const keeps: (Keep | undefined)[] = [];
  for (const agent of agents) keeps.push(await farewell?.gather(userId, agent));
  return db.transaction().execute(async (trx) => {
    // One after the other, or none of two deletions would be the last one, and a create could move in as the place is given up.
    if (!(await store.lockUser(trx, userId))) throw new AppError('not_found', 'user not found');
    await check?.(trx);
    await deployments.hold(trx, userId);
    const gone: store.AgentRow[] = [];
    for (const [index, agent] of agents.entries()) gone.push(await deleteIn(trx, deployments, userId, agent, by, keeps[index]));
    await deployments.history.record(trx, userId, gone.flatMap(placesOf), by);
    return gone;
  });
}

/** The deployments that hold something of it. */
export function placesOf({ deployment_id, moving_from }: store.AgentRow): string[] {
  return moving_from === null ? [deployment_id] : [deployment_id, moving_from];
}

type Keep = (trx: Transaction<Schema>, gone: Departing) => Promise<void>;

async function deleteIn(
  trx: Transaction<Schema>,
  deployments: Deployments,
  userId: string,
  agent: string,
  by: By,
  keep: Keep | undefined,
): Promise<store.AgentRow> {
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
  for (const place of placesOf(found)) await deployments.agentLeft(trx, userId, place);
  await appendEvent(trx, userId, { type: 'agent.deleted', ...by, payload: { agent_id: id } });
  return found;
}
