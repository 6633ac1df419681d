import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { AppError } from '../../lib/errors.js';
import type { AgentDirectory, CallingInstance } from '../../llm/ports.js';
import * as store from './agents.store.js';

/**
 * Which models an instance may ask for: those of the agents in its deployment. Which of them asks is the instance's own word, believed only
 * as far as the deployment (DESIGN, trust boundary).
 */
export class AgentModels implements AgentDirectory {
  readonly #db: Kysely<Schema>;

  constructor({ db }: { db: Kysely<Schema> }) {
    this.#db = db;
  }

  async allowedModel(
    instance: CallingInstance,
    agentId: string | undefined,
    requestedModel: string,
  ): Promise<{ agentId: string | undefined; agentDbId?: string }> {
    const agents = await store.agentsOfDeployment(this.#db, instance.userId, instance.deploymentId);
    const asking = agents.find((agent) => agent.name === agentId && agent.model === requestedModel);
    const agent = asking ?? agents.find((one) => one.model === requestedModel);
    if (!agent) throw new AppError('forbidden', 'no agent of this deployment uses that model');
    return { agentId: agent.name, agentDbId: agent.id };
  }

  async models(instance: CallingInstance): Promise<string[]> {
    const agents = await store.agentsOfDeployment(this.#db, instance.userId, instance.deploymentId);
    return [...new Set(agents.map((agent) => agent.model))];
  }
}
