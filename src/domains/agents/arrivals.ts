import type { Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { AppError } from '../../lib/errors.js';
import type { Deployments } from '../deployments/deployments.js';
import * as store from './agents.store.js';

/** An agent whose first state is still to come: no gateway knows of it until then. */
export interface Arrival {
  /** Of one that there was before. */
  id?: string | undefined;
  /** Says in the same transaction what comes. */
  comes(trx: Transaction<Schema>, agentId: string): Promise<void>;
}

/**
 * Agents whose state is being put in place: no turn of them runs meanwhile. Within the transaction of the change, after `lock`; announce the
 * deployments after the commit.
 */
export class AgentArrivals {
  readonly #deployments: Deployments;

  constructor({ deployments }: { deployments: Deployments }) {
    this.#deployments = deployments;
  }

  /** Another state is to come for an agent that has one. `conflict` while its files are on their way already. */
  async begin(trx: Transaction<Schema>, userId: string, agentId: string): Promise<void> {
    const agent = await this.#find(trx, userId, agentId);
    if (agent.moving_from !== null) throw new AppError('conflict', 'the agent is on its way to a container of its own');
    if (agent.arriving === null) await store.updateAgent(trx, userId, agentId, { arriving: 'again' }, undefined);
  }

  /** The state is there under that name: the agent begins with it as soon as its gateway has been told. */
  async end(trx: Transaction<Schema>, userId: string, agentId: string, incarnation: string | null): Promise<string[]> {
    const agent = await this.#find(trx, userId, agentId);
    const state = incarnation === null ? {} : { incarnation };
    await store.updateAgent(trx, userId, agentId, { arriving: null, ...state }, undefined);
    const version = await this.#deployments.agentsDesireChanged(trx, userId, agent.deployment_id);
    await store.awaitVersion(trx, userId, { agentId }, version);
    return [agent.deployment_id];
  }

  /** Nothing comes: the agent goes on with what it has. One that has nothing goes on waiting. */
  async giveUp(trx: Transaction<Schema>, userId: string, agentId: string): Promise<string[]> {
    const agent = await store.findAgent(trx, userId, agentId);
    return agent?.arriving === 'again' ? this.end(trx, userId, agentId, null) : [];
  }

  /** Something has left the deployment's volume: where that was all there was, the deployment goes. */
  async left(trx: Transaction<Schema>, userId: string, deploymentId: string): Promise<void> {
    await this.#deployments.agentLeft(trx, userId, deploymentId);
  }

  async #find(trx: Transaction<Schema>, userId: string, agentId: string): Promise<store.AgentRow> {
    const agent = await store.findAgent(trx, userId, agentId);
    if (!agent) throw new AppError('not_found', 'agent not found');
    return agent;
  }
}
