import { AppError, NotSent } from '../lib/errors.js';
import type { LinkHost } from '../link/host.js';
import { messageIn, readCapped } from './gateway.js';

/** How a gateway is to let go of agents (agent-image/README.md, "Release"). */
export interface ReleaseCall {
  agents: string[];
  waitMs: number;
  close?: boolean;
  end?: boolean;
}

/** More than a gateway takes to end turns. */
const ANSWER_TIMEOUT_MS = 10_000;

/** Asks gateways to let go of agents, so that another instance on the same volume can take them up. */
export class ReleaseClient {
  readonly #links: LinkHost;

  constructor({ links }: { links: LinkHost }) {
    this.#links = links;
  }

  /** Whether the gateway can share a volume with another one: older ones remove what they are not told of. */
  async isKnownTo(instanceId: string, signal: AbortSignal): Promise<boolean> {
    return (await this.#ask(instanceId, 'GET', undefined, signal)) !== undefined;
  }

  /** Those of the agents of which no turn runs or begins there any more; undefined where the gateway knows nothing of releases. */
  async release(instanceId: string, call: ReleaseCall, signal: AbortSignal): Promise<string[] | undefined> {
    const body = { agents: call.agents, wait_ms: call.waitMs, close: call.close ?? false, end: call.end ?? false };
    const released = await this.#ask(instanceId, 'POST', body, signal, call.waitMs);
    return released && call.agents.filter((agent) => released.includes(agent));
  }

  async #ask(
    instanceId: string,
    method: 'GET' | 'POST',
    body: object | undefined,
    signal: AbortSignal,
    waitMs = 0,
  ): Promise<unknown[] | undefined> {
    const link = this.#links.get(instanceId);
    if (!link) throw new NotSent('the agent is not connected');
    const response = await link.request({
      method,
      path: '/berth/v1/release',
      headers: { 'content-type': 'application/json' },
      ...(body ? { body: JSON.stringify(body) } : {}),
      timeoutMs: ANSWER_TIMEOUT_MS + waitMs,
      signal,
      isUpkeep: true,
    });
    const text = await readCapped(response.body, ANSWER_TIMEOUT_MS);
    if (response.status === 404 || response.status === 405) return undefined;
    if (response.status !== 200)
      throw new AppError('upstream_error', `the gateway does not let go of agents: ${messageIn(text)}`);
    return releasedIn(text);
  }
}

function releasedIn(text: string): unknown[] {
  try {
    const { released } = JSON.parse(text) as { released?: unknown };
    return Array.isArray(released) ? released : [];
  } catch {
    return [];
  }
}
