import { AppError, NotSent } from '../lib/errors.js';
import type { LinkHost } from '../link/host.js';
import type { Link } from '../link/link.js';
import { messageIn, readCapped } from './gateway.js';
import { DEFAULT_STREAM_LIMITS, type GatewayEvent, readGatewayStream, type StreamLimits } from './stream.js';

const HEADERS_TIMEOUT_MS = 10_000;
const WORD_TIMEOUT_MS = 5_000;

/** Reads turns that go on by themselves in their gateway (agent-image/README.md, "Kept turns"). */
export class KeptTurnsClient {
  readonly #links: LinkHost;
  readonly #limits: StreamLimits;

  constructor({ links, limits }: { links: LinkHost; limits?: Partial<StreamLimits> | undefined }) {
    this.#links = links;
    this.#limits = { ...DEFAULT_STREAM_LIMITS, ...limits };
  }

  /**
   * Its events after that one, and those to come. `unknown`: that gateway has no such turn; `gone`: it has let go of what came next, since
   * somebody wrote it down. Throws `NotSent` where the instance cannot be reached from here.
   */
  async follow(
    instanceId: string,
    turnId: string,
    after: number,
    signal: AbortSignal,
  ): Promise<AsyncGenerator<GatewayEvent> | 'unknown' | 'gone'> {
    const response = await this.#link(instanceId).request({
      method: 'GET',
      path: `/berth/v1/turns/${turnId}?after=${after}`,
      timeoutMs: HEADERS_TIMEOUT_MS,
      signal,
    });
    if (response.status === 200) return readGatewayStream(response.body, this.#limits);
    const text = await readCapped(response.body, WORD_TIMEOUT_MS);
    if (response.status === 404) return 'unknown';
    if (response.status === 410) return 'gone';
    throw new AppError('upstream_error', `the gateway answered ${response.status}: ${messageIn(text)}`);
  }

  /** Lets the gateway forget its events up to that one. */
  async written(instanceId: string, turnId: string, seq: number): Promise<void> {
    await this.#say(instanceId, 'PUT', `/berth/v1/turns/${turnId}/written`, JSON.stringify({ seq }));
  }

  /** Ends the turn; its stream says so. False where that gateway has no such turn that runs. */
  async cancel(instanceId: string, turnId: string): Promise<boolean> {
    return (await this.#say(instanceId, 'POST', `/berth/v1/turns/${turnId}/cancel`)) < 300;
  }

  async #say(instanceId: string, method: string, path: string, body?: string): Promise<number> {
    const response = await this.#link(instanceId).request({
      method,
      path,
      ...(body === undefined ? {} : { headers: { 'content-type': 'application/json' }, body }),
      timeoutMs: WORD_TIMEOUT_MS,
      isUpkeep: true,
    });
    await readCapped(response.body, WORD_TIMEOUT_MS);
    return response.status;
  }

  #link(instanceId: string): Link {
    const link = this.#links.get(instanceId);
    if (!link) throw new NotSent('the agent is not connected');
    return link;
  }
}
