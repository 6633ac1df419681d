import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { InstanceAgent, InstanceConfig, PackageSource } from '../../gateway/instance-config.js';
import * as store from './assembly.store.js';

/** An agent that is to be described to its gateway. */
export interface Described {
  id: string;
  name: string;
}

/**
 * What one domain knows of agents that their gateway must be told, by agent id. All agents of a deployment at once, so that a deployment of many
 * costs as many queries as one of few. An error here is shown as the reason why the deployment does not get ready.
 */
export type Describe = (
  db: Kysely<Schema>,
  userId: string,
  agents: readonly Described[],
) => Promise<Map<string, Partial<InstanceAgent>>>;

export interface AssemblyOptions {
  db: Kysely<Schema>;
  /** In their order: lists that several give are joined, of all else the last one stands. */
  parts: Describe[];
  /** The tar of a skill that the user has. */
  packageOf: (userId: string, digest: string) => Promise<Uint8Array | undefined>;
}

/** Puts together, from every domain that shapes agents, what a gateway is told. */
export class Assembly {
  readonly #options: AssemblyOptions;

  constructor(options: AssemblyOptions) {
    this.#options = options;
  }

  /** The agents of a deployment as they are now, under a config version that was read before: they are at least as new as it. */
  async configOf(deploymentId: string, version: number, mode: 'full' | 'files'): Promise<InstanceConfig> {
    const { db, parts } = this.#options;
    const rows = await store.agentsAcrossTenants(db, deploymentId);
    const userId = rows[0]?.user_id;
    // Read after the agents: what is to be kept of one that is gone by then must not be missing.
    const [keeping, ...described] = await Promise.all([
      store.keptAcrossTenants(db, deploymentId),
      ...(userId === undefined ? [] : parts.map((part) => part(db, userId, rows))),
    ]);
    const kept = keeping.length > 0 ? { kept: keeping } : {};
    const agents = rows.map((row) => {
      const { id, name, model, instructions, incarnation } = row;
      const base: InstanceAgent = { id: name, incarnation, model, ...(instructions === null ? {} : { instructions }) };
      return described.reduce((agent, part) => join(agent, part.get(id) ?? {}), base);
    });
    return { version, mode, agents, ...kept };
  }

  /** Where the packages that the user's gateways miss come from. */
  packagesOf(userId: string): PackageSource {
    return (digest) => this.#options.packageOf(userId, digest);
  }
}

function join(agent: InstanceAgent, more: Partial<InstanceAgent>): InstanceAgent {
  const skills = [...(agent.skills ?? []), ...(more.skills ?? [])];
  const commands = [...(agent.commands ?? []), ...(more.commands ?? [])];
  return {
    ...agent,
    ...more,
    ...(skills.length > 0 ? { skills: skills.filter((one, i) => skills.findIndex(({ name }) => name === one.name) === i) } : {}),
    ...(commands.length > 0 ? { commands } : {}),
  };
}
