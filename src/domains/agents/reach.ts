import type { Bus } from '../../events/bus.js';
import { News } from '../../events/news.js';
import type { GatewayClient } from '../../gateway/gateway.js';
import { AppError } from '../../lib/errors.js';
import type { Deployments, WakeCause } from '../deployments/deployments.js';
import type { AgentRoute } from './agents.js';

/** An agent's route with an instance that this process can speak to. */
export type ReachedAgent = AgentRoute & { instanceId: string };

export interface ReachOptions {
  signal: AbortSignal;
  timeoutMs: number;
  /** For its files alone: of a stopped agent too, whose deployment is woken for them. */
  files?: boolean;
}

/** How long somebody waits for an agent, and who is to hear that it is waited for. It goes on over several attempts. */
export interface Wait {
  /** By `performance.now()`. */
  deadline: number;
  /** How long that was from the beginning, for the words of the error. */
  timeoutMs: number;
  signal: AbortSignal;
  /** Whether no turn is to run, so that a stopped agent will do. */
  files?: boolean;
  /** What a deployment that rests is woken for; a turn unless told. */
  cause?: WakeCause;
  /** Told the reason at once, and again when it changes. */
  onWaiting?: ((reason: string | null) => Promise<void> | undefined) | undefined;
  /** The reason that was given last; undefined before any was. */
  said?: string | null | undefined;
}

/** How often one who waits looks without having been told of a change. */
const POLL_MS = 250;

/** Waits for agents that are on their way to a container. */
export class Reach {
  readonly #deployments: Deployments;
  readonly #bus: Bus;
  readonly #gateway: GatewayClient;
  readonly #routeOf: (userId: string, agentId: string) => Promise<AgentRoute>;

  constructor(parts: {
    deployments: Deployments;
    bus: Bus;
    gateway: GatewayClient;
    routeOf: (userId: string, agentId: string) => Promise<AgentRoute>;
  }) {
    this.#deployments = parts.deployments;
    this.#bus = parts.bus;
    this.#gateway = parts.gateway;
    this.#routeOf = parts.routeOf;
  }

  /** Begins with where the agent was; throws `unavailable` at the deadline and the signal's reason when that aborts. */
  async from(userId: string, route: AgentRoute, wait: Wait): Promise<ReachedAgent> {
    if (!wait.files) refuseStopped(route);
    if (this.#isReachable(route)) return route;
    const news = new News(this.#bus, (id) => id === route.deploymentId, wait.signal);
    try {
      return await this.#untilReachable(userId, route, wait, news);
    } finally {
      news.end();
    }
  }

  async #untilReachable(userId: string, before: AgentRoute, wait: Wait, news: News): Promise<ReachedAgent> {
    // That it rests needs no second look: the wake itself finds out whether it still does.
    let route = before.isResting ? before : await this.#routeOf(userId, before.agentId);
    for (;;) {
      if (!wait.files) refuseStopped(route);
      if (this.#isReachable(route)) return route;
      const isOld = route.isResting && !(await this.#deployments.wake(userId, route.deploymentId, wait.cause ?? 'turn'));
      if (wait.said !== route.reason) await wait.onWaiting?.(route.reason);
      wait.said = route.reason;
      const leftMs = wait.deadline - performance.now();
      if (leftMs <= 0) {
        const why = route.reason === null ? '' : `: ${route.reason}`;
        throw new AppError('unavailable', `the agent is not ready after ${wait.timeoutMs / 1000} s${why}`, { retryAfterS: 5 });
      }
      await news.wait(isOld ? 0 : Math.min(POLL_MS, leftMs));
      wait.signal.throwIfAborted();
      route = await this.#routeOf(userId, before.agentId);
    }
  }

  #isReachable(route: AgentRoute): route is ReachedAgent {
    return route.instanceId !== undefined && !route.isResting && this.#gateway.reaches(route.instanceId);
  }
}

/** Throws `conflict` where the agent's user stopped it, and `insufficient_storage` where its volume holds too much. */
export function refuseStopped(route: AgentRoute): void {
  if (route.isStopped) throw new AppError('conflict', 'the agent is stopped: start it with POST …/start');
  if (route.isOverfull)
    throw new AppError(
      'insufficient_storage',
      'the agent’s disk is full: delete files of it (DELETE …/files/…), and its turns run again within seconds',
      { retryAfterS: 15 },
    );
}
