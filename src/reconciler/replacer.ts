import type { Lease, Leased } from '../domains/deployments/work.js';
import { LeaseLost } from '../domains/deployments/work.js';
import type { InstanceConfig } from '../gateway/instance-config.js';
import { messageOf } from '../lib/errors.js';
import type { Hands, Next } from './apply.js';
import type { Step } from './plan.js';
import { takeAway } from './removal.js';

type Instance = NonNullable<Leased['instance']>;

/** How long one call to the current gateway waits for a turn to end. */
const WAIT_MS = 1_000;
/** How much longer than they were given turns may take to stop, before their instance is ended with them in it. */
const STOPPING_MS = 15_000;
const NO_LINK_AGAIN_MS = 500;

/** Carries out what is peculiar to a replacement: handing agents over, and its two ends. All of it may be killed at any line and done again. */
export class Replacer {
  readonly #hands: Hands;

  constructor(hands: Hands) {
    this.#hands = hands;
  }

  /** Lets the incoming instance take over those agents that have no turn on the current one; late ones' turns are ended. */
  async handOver(lease: Lease, leased: Leased, signal: AbortSignal): Promise<Next> {
    const { replacements, links } = this.#hands;
    const { instance, incoming, agents } = leased;
    if (!instance || !incoming) return 'again';
    await replacements.beginHanding(incoming);
    if (!links.get(instance.id)) return { lookAgainInMs: NO_LINK_AGAIN_MS };
    const left = agents.filter((agent) => agent.served_by !== incoming.id);
    const released = await this.#release(leased, instance, incoming, left, signal);
    if (released === undefined) return this.promote(lease, leased, 'replaced: its gateway cannot let go of agents', 10_000);
    if (released.length === 0) return { lookAgainInMs: 0 };
    await replacements.handOver(
      lease,
      incoming,
      left.filter((agent) => released.includes(agent.name)).map((agent) => agent.id),
    );
    return 'again';
  }

  /** Ends the current instance; the incoming one is the current one from then on. The container goes before its row says so. */
  async promote(lease: Lease, leased: Leased, why: string, graceMs: number): Promise<Next> {
    const { instance } = leased;
    if (instance) await this.#remove(instance, graceMs);
    await this.#hands.replacements.promote(lease, leased, why);
    // Until the row said so, this process may have begun to listen for it again.
    if (instance) await this.#hands.links.remove(instance.id);
    return 'again';
  }

  /** Ends the incoming instance; all agents are the current one's again. */
  async undo(lease: Lease, leased: Leased, { why, failed, graceMs }: Extract<Step, { do: 'undo' }>, wish: string): Promise<Next> {
    const { incoming } = leased;
    if (incoming) await this.#remove(incoming, graceMs);
    await this.#hands.replacements.undo(lease, leased, { why, failed, wish });
    if (incoming) await this.#hands.links.remove(incoming.id);
    return 'again';
  }

  /** Names of agents released by now; undefined where there is no use in waiting for it. */
  async #release(
    { deployment }: Leased,
    current: Instance,
    incoming: Instance,
    left: Leased['agents'],
    signal: AbortSignal,
  ): Promise<string[] | undefined> {
    const { releases, turnTimeoutMs, log } = this.#hands;
    const sinceMs = incoming.handing_ms_ago ?? 0;
    // At first only moments without a turn are waited for, which costs nobody anything; then none may begin; then they are ended.
    const close = sinceMs >= (turnTimeoutMs * 2) / 3;
    const end = sinceMs >= turnTimeoutMs;
    const isLast = sinceMs >= turnTimeoutMs + STOPPING_MS;
    try {
      const call = { agents: left.map((agent) => agent.name), waitMs: WAIT_MS, close, end };
      const released = await releases.release(current.id, call, signal);
      return isLast && released?.length === 0 ? undefined : released;
    } catch (error) {
      if (error instanceof LeaseLost || signal.aborted) throw error;
      log.warn({ deployment: deployment.id, err: error }, `agents could not be handed over yet: ${messageOf(error)}`);
      return isLast ? undefined : [];
    }
  }

  async #remove(instance: Instance, graceMs: number): Promise<void> {
    await takeAway(this.#hands, instance, graceMs);
    await this.#hands.links.remove(instance.id);
  }
}

/** The part of a deployment's config that one of its two instances is told: its own agents, and which of them the other one has. */
export function shareOf(config: InstanceConfig, { instance, incoming, agents }: Leased): InstanceConfig {
  if (!instance || !incoming) return config;
  const handed = new Set(agents.filter((agent) => agent.served_by === incoming.id).map((agent) => agent.name));
  const isIncoming = instance.id === incoming.id;
  const isOwn = (name: string) => handed.has(name) === isIncoming;
  return {
    ...config,
    agents: config.agents.filter((agent) => isOwn(agent.id)),
    released: config.agents.filter((agent) => !isOwn(agent.id)).map((agent) => agent.id),
  };
}
