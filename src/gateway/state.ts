import type { Readable } from 'node:stream';
import { AppError, NotSent } from '../lib/errors.js';
import { withDeadline } from '../lib/deadline.js';
import type { LinkHost } from '../link/host.js';
import type { LinkResponse } from '../link/link.js';
import type { Upload } from './files.js';
import { countsIn, objectIn, refusal as fileRefusal } from './files-answer.js';
import { messageIn, readCapped } from './gateway.js';

/** An agent's state is its workspace, its home and the conversations that its gateway keeps. */
export interface StatePlace {
  instanceId: string;
  /** The agent's id in the gateway, which is its name. */
  agent: string;
}

/** A gateway lets the agent's turns end before it gives the state away. */
const READ_TIMEOUT_MS = 90_000;
const ANSWER_TIMEOUT_MS = 30_000;
/** For all of it: what takes longer is begun anew, from the beginning. */
const COPY_TIMEOUT_MS = 1_800_000;

/** Carries the state of agents from one instance to another, over their links, without keeping any of it. */
export class StateClient {
  readonly #links: LinkHost;

  constructor({ links }: { links: LinkHost }) {
    this.#links = links;
  }

  /** Whether this process can reach the instance now. */
  reaches(instanceId: string): boolean {
    return this.#links.get(instanceId) !== undefined;
  }

  /** Copies the state. The other instance keeps it for an agent of that incarnation, which it does not know yet. May be done again. */
  copy(from: StatePlace, to: StatePlace & { incarnation: string }, signal: AbortSignal): Promise<void> {
    return withDeadline('the copy of an agent’s files', COPY_TIMEOUT_MS, (joined) => this.#copy(from, to, joined), signal);
  }

  /**
   * The state as a tar, packed as it is read; of an agent that is gone, by its incarnation, as long as it is kept. `not_found` where there is none.
   * A body that fails in its midst ends in an error.
   */
  async read({ instanceId, agent, incarnation }: StatePlace & { incarnation?: string }, signal: AbortSignal): Promise<Readable> {
    const query = incarnation === undefined ? '' : `?incarnation=${encodeURIComponent(incarnation)}`;
    const path = `/berth/v1/agents/${encodeURIComponent(agent)}/state${query}`;
    const response = await this.#request(instanceId, { method: 'GET', path, timeoutMs: READ_TIMEOUT_MS, signal });
    if (response.status !== 200) throw await fileRefusal(response);
    return response.body;
  }

  /** Brings a state from elsewhere, for an agent of that incarnation, whole or not at all. May be done again. */
  async write(
    { instanceId, agent, incarnation }: StatePlace & { incarnation: string },
    { body, lengthBytes, quotaBytes }: Upload,
    signal: AbortSignal,
  ): Promise<{ files: number; bytes: number }> {
    const path = `/berth/v1/agents/${encodeURIComponent(agent)}/state?incarnation=${encodeURIComponent(incarnation)}`;
    const headers: Record<string, string> = { 'content-type': 'application/x-tar', 'x-berth-quota': String(quotaBytes) };
    if (lengthBytes !== undefined) headers['content-length'] = String(lengthBytes);
    const response = await this.#request(instanceId, { method: 'PUT', path, headers, body, timeoutMs: COPY_TIMEOUT_MS, signal });
    if (response.status >= 300) throw await fileRefusal(response);
    return countsIn(objectIn(await readCapped(response.body, ANSWER_TIMEOUT_MS)));
  }

  async #copy(from: StatePlace, to: StatePlace & { incarnation: string }, signal: AbortSignal): Promise<void> {
    const read = await this.#request(from.instanceId, {
      method: 'GET',
      path: `/berth/v1/agents/${encodeURIComponent(from.agent)}/state`,
      timeoutMs: READ_TIMEOUT_MS,
      signal,
    });
    if (read.status !== 200) throw await refusal(read, 'does not give them away');
    try {
      const written = await this.#request(to.instanceId, {
        method: 'PUT',
        path: `/berth/v1/agents/${encodeURIComponent(to.agent)}/state?incarnation=${encodeURIComponent(to.incarnation)}`,
        headers: { 'content-type': 'application/x-tar' },
        body: read.body,
        timeoutMs: COPY_TIMEOUT_MS,
        signal,
      });
      if (written.status >= 300) throw await refusal(written, 'does not take them');
      await readCapped(written.body, ANSWER_TIMEOUT_MS);
    } finally {
      read.body.destroy();
    }
  }

  async #request(
    instanceId: string,
    request: Parameters<NonNullable<ReturnType<LinkHost['get']>>['request']>[0],
  ): Promise<LinkResponse> {
    const link = this.#links.get(instanceId);
    if (!link) throw new NotSent('the agent is not connected');
    return link.request(request);
  }
}

async function refusal(response: LinkResponse, does: string): Promise<AppError> {
  const text = await readCapped(response.body, ANSWER_TIMEOUT_MS);
  return new AppError('upstream_error', `the gateway ${does} (${response.status}): ${messageIn(text)}`);
}
