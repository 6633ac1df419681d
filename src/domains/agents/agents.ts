import type { Kysely, Transaction } from 'kysely';
import { isUniqueViolation } from '../../db/errors.js';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { appendEvent } from '../../events/outbox.js';
import type { GatewayClient } from '../../gateway/gateway.js';
import { actorOf, type Caller } from '../../lib/caller.js';
import { AppError } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import { type Page, type PageRequest, pageOf } from '../../lib/page.js';
import type { ApiKeys } from '../api-keys/api-keys.js';
import type { By, Deployments } from '../deployments/deployments.js';
import type { NetworkPolicy } from '../deployments/deployments.table.js';
import type { Tiers } from '../tiers/tiers.js';
import type { AgentAnswer, CreateAgent, NewAgentAnswer, UpdateAgent } from './agents.schema.js';
import * as store from './agents.store.js';
import { answerOf, whyNot } from './answer.js';
import type { Arrival } from './arrivals.js';
import { AgentBeats } from './beats.js';
import { deleteAgents, type Farewell, placesOf } from './deletion.js';
import { type Desire, Desires } from './desires.js';
import { refuseTwins } from './twins.js';
import { Reach, refuseStopped, type ReachedAgent, type ReachOptions, type Wait } from './reach.js';

export type { AgentArrivals } from './arrivals.js';
export type { Departing, Farewell } from './deletion.js';
export type { ReachedAgent, Wait } from './reach.js';

export interface AgentsOptions {
  db: Kysely<Schema>;
  bus: Bus;
  tiers: Tiers;
  keys: ApiKeys;
  deployments: Deployments;
  gateway: GatewayClient;
  defaultModel: string;
  /** Throws `invalid_request` when no provider serves the model. */
  checkModel: (model: string) => void;
  /** Throws `payload_too_large` when the texts of the user's agents are more than their gateways take. */
  checkRoom: (trx: Transaction<Schema>, userId: string) => Promise<void>;
  /** Keeps what is needed to bring a deleted agent back. */
  farewell: Farewell | undefined;
}

/** Where a turn of an agent goes. */
export interface AgentRoute {
  agentId: string;
  name: string;
  deploymentId: string;
  /** The instance that serves the agent as it is now, if there is one. */
  instanceId: string | undefined;
  /** Why there is none. */
  reason: string | null;
  /** Whether its user stopped it: no turn of it may run. */
  isStopped: boolean;
  /** Whether its deployment sleeps, and is up for files alone if at all. */
  isAsleep: boolean;
  /** Whether it sleeps for want of use: a use wakes it. */
  isResting: boolean;
  /** Whether its volume holds more than it may, so that no turn of it may run. */
  isOverfull: boolean;
}

const NO_NETWORK: NetworkPolicy = { mode: 'none' };
/** So many agents fit into one container, whatever their texts are; the making of the first ones must not wait for a look. */
const FEW_AGENTS = 14;
/** An admin sees this many models at most: a list of all tenants' agents has no end. */
const ADMIN_MODELS_AT_MOST = 1_000;

/** A user's agents. Creating one writes the wish for a place to run; the reconciler does the rest. */
export class Agents {
  readonly #options: AgentsOptions;
  readonly #db: Kysely<Schema>;
  readonly #reach: Reach;
  readonly #desires: Desires;
  /** Whose heartbeats are to be decided. */
  readonly beats: AgentBeats;

  constructor(options: AgentsOptions) {
    this.#options = options;
    this.#db = options.db;
    this.beats = new AgentBeats(options.db);
    const { bus, gateway, deployments } = options;
    this.#desires = new Desires({ db: options.db, deployments });
    this.#reach = new Reach({ bus, gateway, routeOf: (userId, agentId) => this.route(userId, agentId), deployments });
  }

  /** All of them or none. `conflict` when a name is taken, `limit_exceeded` when the tier has no room. */
  async create(
    userId: string,
    wishes: CreateAgent[],
    caller: Caller,
    requestId: string,
    arrival?: Arrival,
  ): Promise<NewAgentAnswer[]> {
    const by = { actor: actorOf(caller), requestId };
    const made = await this.#db.transaction().execute(async (trx) => {
      const answers = await this.createIn(trx, userId, wishes, by, arrival);
      const deploymentIds = answers.map((one) => one.deployment_id);
      await this.#options.deployments.history.record(trx, userId, deploymentIds, by);
      return answers;
    });
    for (const id of new Set(made.map((one) => one.deployment_id))) this.#options.deployments.announce(id);
    return made;
  }

  /** As part of a change: whoever makes it records what it does to deployments, and announces them after its commit. */
  async createIn(
    trx: Transaction<Schema>,
    userId: string,
    wishes: CreateAgent[],
    by: By,
    arrival?: Arrival,
  ): Promise<NewAgentAnswer[]> {
    refuseTwins(wishes);
    for (const { model } of wishes) if (model !== undefined) this.#options.checkModel(model);
    const total = await this.#makeRoom(trx, userId, wishes.length);
    if (wishes.length > 1) await this.#options.deployments.hold(trx, userId);
    const created: { id: string; key: string; deploymentId: string }[] = [];
    for (const wish of wishes) created.push(await this.#insert(trx, userId, wish, arrival));
    if (total > FEW_AGENTS) await this.#options.checkRoom(trx, userId);
    for (const { id } of created) await arrival?.comes(trx, id);
    // Read before the commit: after it, a failure would lose keys that are shown this once.
    const answers: NewAgentAnswer[] = [];
    for (const { id, key } of created) answers.push({ ...answerOf(await this.#find(trx, userId, id)), api_key: key });
    for (const { id, deploymentId } of created) {
      const payload = { agent_id: id, deployment_id: deploymentId };
      await appendEvent(trx, userId, { type: 'agent.created', ...by, payload });
    }
    return answers;
  }

  async list(userId: string, page: PageRequest): Promise<Page<AgentAnswer>> {
    const [rows, total] = await Promise.all([store.listAgents(this.#db, userId, page), store.countAgents(this.#db, userId)]);
    return pageOf(rows, page, total, answerOf);
  }

  /** By name or id. */
  async get(userId: string, agent: string): Promise<AgentAnswer> {
    return answerOf(await this.#find(this.#db, userId, agent));
  }

  /** `version`: the caller's guard; `precondition_failed` when the agent has moved on since. */
  async update(
    userId: string,
    agent: string,
    wish: UpdateAgent,
    version: number | undefined,
    caller: Caller,
    requestId: string,
  ): Promise<AgentAnswer> {
    if (wish.model !== undefined) this.#options.checkModel(wish.model);
    const changed = await this.#db.transaction().execute(async (trx) => {
      await this.#lockUser(trx, userId);
      const row = await this.#find(trx, userId, agent);
      const configVersion = await this.#options.deployments.changed(trx, userId, row.deployment_id);
      const held = await store.updateAgent(trx, userId, row.id, { ...wish, config_version: configVersion }, version);
      if (!held) throw new AppError('precondition_failed', 'the agent has changed since that version');
      if ((wish.instructions?.length ?? 0) > (row.instructions?.length ?? 0)) await this.#options.checkRoom(trx, userId);
      const answer = await this.#find(trx, userId, row.id);
      const by = { actor: actorOf(caller), requestId };
      if (answer.model !== row.model) await this.#options.deployments.history.record(trx, userId, [row.deployment_id], by);
      const payload = { agent_id: row.id, fields: Object.keys(wish) };
      await appendEvent(trx, userId, { type: 'agent.updated', ...by, payload });
      return answer;
    });
    this.#options.deployments.announce(changed.deployment_id);
    return answerOf(changed);
  }

  /** The agent is gone when this returns; its workspace goes with the next word to its gateway. */
  async delete(userId: string, agent: string, caller: Caller, requestId: string): Promise<{ id: string; name: string }> {
    const [gone] = await this.deleteAll(userId, [agent], { actor: actorOf(caller), requestId });
    if (!gone) throw new Error('no agent was deleted');
    return { id: gone.id, name: gone.name };
  }

  /** Several at once, all or none. `check` may refuse it, within the transaction and before anything is changed. */
  async deleteAll(userId: string, agents: string[], by: By, check?: (trx: Transaction<Schema>) => Promise<void>) {
    const gone = await deleteAgents(this.#options, userId, agents, by, check);
    for (const { id } of gone) this.#options.bus.publish('agent', id);
    this.announce([...new Set(gone.flatMap(placesOf))]);
    return gone;
  }

  /** Whether the agent is to run, or to be begun anew. */
  async setDesire(userId: string, agent: string, wish: Desire, caller: Caller, requestId: string): Promise<AgentAnswer> {
    return answerOf(await this.#desires.set(userId, agent, wish, { actor: actorOf(caller), requestId }));
  }

  /**
   * Gives an agent a deployment of its own, its files and memory with it: within `trx`, after `lock`. Alone in a shared one it keeps that, as its
   * own; with siblings its files follow, and until they are there no turn of it runs. Announce the answered deployments after the commit.
   */
  async moveToOwn(
    trx: Transaction<Schema>,
    userId: string,
    agentId: string,
    { network, reason }: { network: NetworkPolicy; reason: string | null },
  ): Promise<string[]> {
    const { deployments } = this.#options;
    const agent = await this.#find(trx, userId, agentId);
    if (agent.moving_from !== null) throw new AppError('conflict', 'the agent is on its way to a container of its own already');
    if (agent.arriving !== null) throw new AppError('conflict', 'the state of the agent is being put in place');
    const place = { isolation: 'dedicated' as const, isolation_reason: reason, network };
    if (agent.isolation === 'dedicated' || (await deployments.dedicateIfAlone(trx, userId, agent.deployment_id, network))) {
      await store.updateAgent(trx, userId, agentId, place, undefined);
      return this.touch(trx, userId, agentId);
    }
    await deployments.hold(trx, userId);
    const { deploymentId } = await deployments.place(trx, userId, place);
    const move = { ...place, deployment_id: deploymentId, moving_from: agent.deployment_id };
    await store.updateAgent(trx, userId, agentId, move, undefined);
    await store.awaitVersion(trx, userId, { agentId }, await deployments.agentsDesireChanged(trx, userId, deploymentId));
    await deployments.agentsDesireChanged(trx, userId, agent.deployment_id);
    return [agent.deployment_id, deploymentId];
  }

  /** The agent's new key; the old one is dead when this returns. */
  async rotateKey(userId: string, agent: string, caller: Caller, requestId: string): Promise<{ agent: string; api_key: string }> {
    const row = await this.#find(this.#db, userId, agent);
    const key = await this.#options.keys.rotate(userId, row.id, caller, requestId);
    return { agent: row.name, api_key: key.api_key };
  }

  /** Really asks the agent's gateway; answers the milliseconds it took. `unavailable` when it does not answer. */
  async ping(userId: string, agent: string): Promise<{ agent: string; latencyMs: number }> {
    const found = await this.route(userId, agent);
    if (found.instanceId === undefined)
      throw new AppError('unavailable', found.reason ?? 'the agent is not running yet', { retryAfterS: 1 });
    return { agent: found.name, latencyMs: await this.#options.gateway.ping(found.instanceId, found.name) };
  }

  /** Where a turn of the agent goes now; `not_found` when there is no such agent. */
  async route(userId: string, agent: string): Promise<AgentRoute> {
    const row = await store.findRoute(this.#db, userId, agent);
    if (!row) throw new AppError('not_found', 'agent not found');
    const serves =
      row.instance_id !== null &&
      row.state !== 'asleep' &&
      row.moving_from === null &&
      row.arriving === null &&
      (row.applied_version ?? 0) >= row.config_version;
    return {
      agentId: row.id,
      name: row.name,
      deploymentId: row.deployment_id,
      instanceId: serves ? (row.instance_id ?? undefined) : undefined,
      reason: serves ? null : whyNot(row),
      isStopped: row.desired === 'stopped',
      isAsleep: row.deployment_desired === 'asleep',
      isResting: row.rest !== null,
      isOverfull: row.disk === 'soft' && row.disk_full_at !== null,
    };
  }

  /**
   * The instance that serves the agent now, waited for where there is none yet: for `timeoutMs` at most, then `unavailable` with why.
   * `not_found` when there is no such agent.
   */
  async reach(userId: string, agent: string, { signal, timeoutMs, files = false }: ReachOptions): Promise<ReachedAgent> {
    const cause = files ? ('files' as const) : ('context' as const);
    const wait = { deadline: performance.now() + timeoutMs, timeoutMs, signal, files, cause };
    const route = await this.route(userId, agent);
    if (files && route.isAsleep) await this.#options.deployments.wakeForFiles(userId, route.deploymentId);
    return this.#reach.from(userId, route, wait);
  }

  /** Throws where no turn of the agent may begin. */
  refuseStopped(route: AgentRoute): void {
    refuseStopped(route);
  }

  /** As `reach`, for a caller that knows where the agent was a moment ago and may ask again within the same wait. */
  reachFrom(userId: string, route: AgentRoute, wait: Wait): Promise<ReachedAgent> {
    return this.#reach.from(userId, route, wait);
  }

  /** Holds the user's row until the end of the transaction. Whatever changes what an agent is made of begins with this. */
  async lock(trx: Transaction<Schema>, userId: string): Promise<{ id: string; name: string; tier: string }> {
    return this.#lockUser(trx, userId);
  }

  /** The agent as it is in the transaction, by name or id. */
  async getIn(trx: Transaction<Schema>, userId: string, agent: string): Promise<AgentAnswer> {
    return answerOf(await this.#find(trx, userId, agent));
  }

  /** What its config says of it. Within the transaction of the change, after `lock`; its gateway hears of it by `touch`. */
  async setIn(
    trx: Transaction<Schema>,
    userId: string,
    agentId: string,
    values: { model?: string; network?: NetworkPolicy },
  ): Promise<void> {
    await store.updateAgent(trx, userId, agentId, values, undefined);
  }

  /**
   * What the agent's gateway knows of it is no longer true: the next turn waits until it has been told. Within the transaction of the
   * change, after `lock`; announce the answered deployments after its commit.
   */
  async touch(trx: Transaction<Schema>, userId: string, agentId: string): Promise<string[]> {
    const { deployment_id: deploymentId } = await this.#find(trx, userId, agentId);
    const version = await this.#options.deployments.changed(trx, userId, deploymentId);
    await store.awaitVersion(trx, userId, { agentId }, version);
    return [deploymentId];
  }

  /** As `touch`, for all agents of the user. */
  async touchAll(trx: Transaction<Schema>, userId: string): Promise<string[]> {
    const deploymentIds = await store.deploymentsInUse(trx, userId);
    for (const deploymentId of deploymentIds) {
      const version = await this.#options.deployments.changed(trx, userId, deploymentId);
      await store.awaitVersion(trx, userId, { deploymentId }, version);
    }
    return deploymentIds;
  }

  /** After the commit of what `touch` or `touchAll` was part of. */
  announce(deploymentIds: string[]): void {
    for (const id of deploymentIds) this.#options.deployments.announce(id);
  }

  /** Users and names of agents, for an admin's model list. */
  namesForAdmin() {
    return store.namesAcrossTenants(this.#db, ADMIN_MODELS_AT_MOST);
  }

  /** Part of the user's deletion. */
  async erase(trx: Transaction<Schema>, userId: string): Promise<void> {
    await store.deleteAllAgents(trx, userId);
  }

  /** How many there will be; `limit_exceeded` where those are too many. */
  async #makeRoom(trx: Transaction<Schema>, userId: string, more: number): Promise<number> {
    const user = await this.#lockUser(trx, userId);
    const tier = await this.#options.tiers.getIn(trx, user.tier);
    const have = await store.countAgents(trx, userId);
    if (have + more <= tier.max_agents) return have + more;
    throw new AppError(
      'limit_exceeded',
      `tier ${tier.name} allows ${tier.max_agents} agents; ${have} exist and ${more} more were asked for`,
    );
  }

  async #insert(
    trx: Transaction<Schema>,
    userId: string,
    wish: CreateAgent,
    arrival: Arrival | undefined,
  ): Promise<{ id: string; key: string; deploymentId: string }> {
    const id = arrival?.id ?? newId('agt');
    const network = wish.network ?? NO_NETWORK;
    const place = await this.#options.deployments.place(trx, userId, { isolation: wish.isolation ?? 'shared', network });
    try {
      await store.insertAgent(trx, userId, {
        id,
        deployment_id: place.deploymentId,
        name: wish.name,
        description: wish.description ?? null,
        model: wish.model ?? this.#options.defaultModel,
        instructions: wish.instructions ?? null,
        isolation: place.isolation,
        isolation_reason: place.reason,
        network,
        arriving: arrival ? 'new' : null,
        config_version: await this.#options.deployments.changed(trx, userId, place.deploymentId),
      });
    } catch (error) {
      if (!isUniqueViolation(error, 'agents_name_key')) throw error;
      throw new AppError('conflict', `an agent named ${wish.name} exists already`, {
        cause: error,
        fields: [{ path: 'name', message: 'is taken' }],
      });
    }
    const key = await this.#options.keys.insert(trx, { kind: 'agent', userId, agentId: id, name: 'primary', primary: true });
    return { id, key: key.api_key, deploymentId: place.deploymentId };
  }

  async #lockUser(trx: Transaction<Schema>, userId: string) {
    const user = await store.lockUser(trx, userId);
    if (!user) throw new AppError('not_found', 'user not found');
    return user;
  }

  async #find(db: Kysely<Schema>, userId: string, agent: string): Promise<store.AgentRow> {
    const row = await store.findAgent(db, userId, agent);
    if (!row) throw new AppError('not_found', 'agent not found');
    return row;
  }
}
