import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { actorOf, type Caller } from '../../lib/caller.js';
import { AppError, type FieldError, wrongField } from '../../lib/errors.js';
import type { Agents } from '../agents/agents.js';
import type { Configs } from '../configs/configs.js';
import type { Deployments } from '../deployments/deployments.js';
import type { DeploymentAnswer } from '../deployments/deployments.schema.js';
import type { RevisionDocument } from '../deployments/deployments.table.js';
import type { Tiers } from '../tiers/tiers.js';
import { obstacles, within } from './obstacles.js';
import type { CreateDeployment, NewDeployment, RolledBack, UpdateDeployment } from './revisions.schema.js';

export interface RevisionsOptions {
  db: Kysely<Schema>;
  agents: Agents;
  configs: Configs;
  deployments: Deployments;
  tiers: Tiers;
  /** Images that an agent may be given besides the usual one. */
  images: readonly string[];
}

type Trx = Transaction<Schema>;

/** Who asks, in which request, and the revision that they saw. */
export interface Asking {
  caller: Caller;
  requestId: string;
  guard?: number | undefined;
}

/** Changes of what deployments run that are asked of the deployment itself: each is one revision, whatever it is made of. */
export class Revisions {
  readonly #options: RevisionsOptions;

  constructor(options: RevisionsOptions) {
    this.#options = options;
  }

  /** An agent with a container of its own. */
  async create(userId: string, { image, limits, ...agent }: CreateDeployment, asking: Asking): Promise<NewDeployment> {
    const { db, agents, configs, deployments } = this.#options;
    const by = byOf(asking);
    const made = await db.transaction().execute(async (trx) => {
      const [created] = await agents.createIn(trx, userId, [{ ...agent, isolation: 'dedicated' }], by);
      if (!created) throw new Error('no agent was made');
      await configs.patchIn(trx, userId, created.id, { image, limits }, by);
      await deployments.history.record(trx, userId, [created.deployment_id], by);
      const answer = await deployments.getIn(trx, userId, created.deployment_id);
      return { ...answer, agent: { ...(await agents.getIn(trx, userId, created.id)), api_key: created.api_key } };
    });
    deployments.announce(made.id);
    return made;
  }

  /** `conflict` where it is asked of a shared container what only an agent's own can have. */
  async update(userId: string, id: string, { agents: patches = [], ...shape }: UpdateDeployment, asking: Asking) {
    const by = byOf(asking);
    return this.#change(userId, id, asking, async (trx, before) => {
      const { configs } = this.#options;
      const touched: string[] = [];
      if (Object.values(shape).some((wish) => wish !== undefined)) {
        touched.push(...(await configs.patchIn(trx, userId, ownerOf(before, shape), shape, by)));
      }
      for (const [index, { name, ...patch }] of patches.entries()) {
        const agent = before.agents.find((one) => one.name === name);
        if (!agent) throw notInIt(index);
        touched.push(...(await within(`agents.${index}`, () => configs.patchIn(trx, userId, agent.id, patch, by))));
      }
      await this.#options.deployments.history.record(trx, userId, [id], by);
      return { answer: await this.#options.deployments.getIn(trx, userId, id), touched };
    });
  }

  /** Its agents with it: they are gone when this returns, as if each had been deleted. */
  async delete(userId: string, id: string, asking: Asking): Promise<{ id: string; agents: string[] }> {
    const { db, agents, deployments } = this.#options;
    const seen = await deployments.getIn(db, userId, id);
    const gone = await agents.deleteAll(userId, idsIn(seen), byOf(asking), async (trx) => {
      const now = await deployments.getIn(trx, userId, id);
      refuseOther(now, asking);
      if (idsIn(now).join() !== idsIn(seen).join())
        throw new AppError('conflict', 'agents came into the deployment, or left it, at this moment: look again');
    });
    return { id, agents: gone.map((row) => row.name) };
  }

  /**
   * Has a deployment run again what its user had wished of it at that revision: the container's image, limits and network, and the model and config
   * of each agent that is still there. All of it, or `conflict` with every reason why not.
   */
  async rollBack(userId: string, id: string, revision: number, asking: Asking): Promise<RolledBack> {
    const { deployments } = this.#options;
    const by = { ...byOf(asking), reason: `rolled back to revision ${revision}` };
    const { target, after } = await this.#change(userId, id, asking, async (trx, before) => {
      const wanted = await deployments.history.documentAt(trx, userId, id, revision);
      const touched = await this.#apply(trx, userId, before, wanted, { ...by, revision });
      await deployments.history.record(trx, userId, [id], by);
      const now = await deployments.getIn(trx, userId, id);
      if (now.revision === before.revision) throw nothingToDo(revision, this.#stays(wanted, now));
      return { answer: { target: wanted, after: now }, touched };
    });
    const written = await deployments.history.get(userId, id, after.revision);
    return { ...written, rolled_back_to: revision, stays: this.#stays(target, after) };
  }

  async #apply(
    trx: Trx,
    userId: string,
    before: DeploymentAnswer,
    target: RevisionDocument,
    by: { actor: string; requestId: string; revision: number },
  ): Promise<string[]> {
    const { configs, tiers, images } = this.#options;
    const fields: FieldError[] = obstacles(target, { images, tier: await tiers.getIn(trx, before.tier) });
    const touched: string[] = [];
    for (const agent of target.agents) {
      if (!before.agents.some(({ id }) => id === agent.id)) continue;
      const to = {
        version: agent.config_version,
        model: agent.model,
        network: target.network,
        limits: target.limits_set ?? undefined,
        image: target.image_from === 'config' ? target.image : undefined,
      };
      try {
        touched.push(...(await within(`agents.${agent.name}`, () => configs.returnIn(trx, userId, agent.id, to, by))));
      } catch (error) {
        if (!(error instanceof AppError) || !error.fields) throw error;
        // What is said of the container already is not said again of its agent's config.
        fields.push(...error.fields.filter(({ path }) => !fields.some((one) => path === `agents.${agent.name}.${one.path}`)));
      }
    }
    if (fields.length === 0) return touched;
    const why = fields.map(({ path, message }) => `${path} ${message}`).join('; ');
    throw new AppError('conflict', `revision ${by.revision} cannot be run again: ${why}`, { fields });
  }

  /** Where a deployment differs from what it was, but for the versions of configs, which only ever go up. */
  #stays(target: RevisionDocument, now: RevisionDocument): RolledBack['stays'] {
    const changes = this.#options.deployments.history.compare(target, now);
    return changes.filter(({ path }) => !path.endsWith('.config_version'));
  }

  async #change<T>(
    userId: string,
    id: string,
    asking: Asking,
    work: (trx: Trx, before: DeploymentAnswer) => Promise<{ answer: T; touched: string[] }>,
  ): Promise<T> {
    const { db, agents, deployments } = this.#options;
    const { answer, touched } = await db.transaction().execute(async (trx) => {
      await agents.lock(trx, userId);
      const before = await deployments.getIn(trx, userId, id);
      refuseOther(before, asking);
      return work(trx, before);
    });
    for (const one of new Set([id, ...touched])) deployments.announce(one);
    return answer;
  }
}

function byOf({ caller, requestId }: Asking) {
  return { actor: actorOf(caller), requestId };
}

function idsIn({ agents }: DeploymentAnswer): string[] {
  return agents.map(({ id }) => id);
}

function refuseOther({ revision }: DeploymentAnswer, { guard }: Asking): void {
  if (guard !== undefined && guard !== revision)
    throw new AppError('precondition_failed', 'the deployment has changed since that revision');
}

/** The agent whose own container it is. */
function ownerOf({ kind, agents }: DeploymentAnswer, shape: object): string {
  const [agent] = agents;
  if (kind === 'dedicated' && agent) return agent.id;
  const message =
    "is that of the tier for the container that agents share: change the agent's config, and it gets one of its own";
  const named = Object.entries(shape).filter(([, wish]) => wish !== undefined);
  throw new AppError('conflict', 'the container is shared', { fields: named.map(([path]) => ({ path, message })) });
}

function notInIt(index: number): AppError {
  const message = 'is not in this deployment; an agent gets a container of its own by its config, and keeps it';
  return wrongField(`agents.${index}.name`, message);
}

function nothingToDo(revision: number, stays: RolledBack['stays']): AppError {
  const rest = stays.map(({ path }) => path).join(', ');
  const also = rest === '' ? '' : `; what differs is not its user's to take back: ${rest}`;
  return new AppError('conflict', `the deployment runs what was wished at revision ${revision} already${also}`);
}
