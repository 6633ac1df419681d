import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { AppError } from '../../lib/errors.js';
import type { Agents } from '../agents/agents.js';
import type { AgentAnswer } from '../agents/agents.schema.js';
import type { Deployments } from '../deployments/deployments.js';
import type { NetworkPolicy } from '../deployments/deployments.table.js';
import type { ConfigDocument } from './configs.schema.js';
import { isShape } from './effective.js';

export interface PlacingOptions {
  db: Kysely<Schema>;
  agents: Agents;
  deployments: Deployments;
}

/** Gives an agent's container the network, limits and image that its config asks for. */
export class Placing {
  readonly #options: PlacingOptions;

  constructor(options: PlacingOptions) {
    this.#options = options;
  }

  /** Within the transaction of the change, after the user's lock. Answers the deployments to announce. */
  async apply(
    trx: Transaction<Schema>,
    userId: string,
    agent: AgentAnswer,
    after: ConfigDocument,
    changed: readonly string[],
  ): Promise<string[]> {
    const fields = changed.filter(isShape);
    if (fields.length === 0) return [];
    if (fields.includes('isolation') && after.isolation === undefined) {
      throw new AppError('conflict', 'an agent that has a container of its own keeps it', {
        fields: [{ path: 'isolation', message: 'cannot be taken back' }],
      });
    }
    const { agents, deployments } = this.#options;
    const network = after.network ?? { mode: 'none' as const };
    const touched = agent.isolation === 'shared' ? await this.#makeOwn(trx, userId, agent, network, fields) : [];
    const { deployment_id: deploymentId } = await agents.getIn(trx, userId, agent.id);
    await agents.setIn(trx, userId, agent.id, { network });
    const { limits = null, image = null } = after;
    await deployments.reshape(trx, userId, deploymentId, { network, limits, image });
    return [...touched, deploymentId];
  }

  /** A container is the boundary of these fields: the agent gets one of its own, with its files, where it shares one. */
  #makeOwn(
    trx: Transaction<Schema>,
    userId: string,
    agent: AgentAnswer,
    network: NetworkPolicy,
    fields: readonly string[],
  ): Promise<string[]> {
    const words = `its ${fields.join(' and ')} would differ from the shared container's, and a container is the boundary of that`;
    const reason = fields.includes('isolation') ? null : words;
    return this.#options.agents.moveToOwn(trx, userId, agent.id, { network, reason });
  }
}
