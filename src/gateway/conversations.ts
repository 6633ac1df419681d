import { AppError, NotSent } from '../lib/errors.js';
import type { LinkHost } from '../link/host.js';
import { messageIn, readCapped } from './gateway.js';

/** A turn of it may have to be over first. */
const TIMEOUT_MS = 10_000;

/** Has gateways forget conversations. */
export class ConversationsClient {
  readonly #links: LinkHost;

  constructor({ links }: { links: LinkHost }) {
    this.#links = links;
  }

  /** Whether this process can reach the instance now. */
  reaches(instanceId: string): boolean {
    return this.#links.get(instanceId) !== undefined;
  }

  /** What the gateway keeps of a conversation is gone when this resolves. `agent`: its id in the gateway, which is its name. */
  async delete(instanceId: string, agent: string, conversationId: string): Promise<void> {
    const link = this.#links.get(instanceId);
    if (!link) throw new NotSent('the agent is not connected');
    const response = await link.request({
      method: 'DELETE',
      path: `/berth/v1/agents/${encodeURIComponent(agent)}/conversations/${conversationId}`,
      timeoutMs: TIMEOUT_MS,
      isUpkeep: true,
    });
    const text = await readCapped(response.body, TIMEOUT_MS);
    if (response.status >= 300)
      throw new AppError('upstream_error', `the gateway answered ${response.status}: ${messageIn(text)}`);
  }
}
