import http from 'node:http';
import Docker from 'dockerode';
import { AppError } from '../../lib/errors.js';
import { withDeadline } from '../../lib/deadline.js';
import { explain } from './faults.js';

const DEFAULT_HOST = 'unix:///var/run/docker.sock';

/**
 * The way to the engine: two clients, one for calls and one for streams, neither with a timeout of its own (it would also kill
 * streams that are merely quiet). The client's promises may never settle once an engine has sent headers and gone away, so
 * nothing here is awaited without a deadline.
 */
export class Engine {
  readonly #calls: Docker;
  readonly #streams: Docker;
  readonly #agents: http.Agent[];

  constructor(dockerHost: string = DEFAULT_HOST) {
    // Kept-alive connections would have to be told apart from ones that died with a restarted engine; a new one costs 0.1 ms.
    this.#agents = [new http.Agent({ keepAlive: false }), new http.Agent({ keepAlive: false })];
    const address = parseHost(dockerHost);
    const [calls, streams] = this.#agents.map((agent) => ({ ...address, agent }));
    this.#calls = new Docker(calls);
    this.#streams = new Docker(streams);
  }

  /** One call, settled at the latest after `timeoutMs`. What it throws is in plain words and keeps the status (`statusOf`). */
  async call<T>(what: string, timeoutMs: number, work: (docker: Docker, abortSignal: AbortSignal) => Promise<T>): Promise<T> {
    try {
      return await withDeadline(what, timeoutMs, (signal) => work(this.#calls, signal));
    } catch (error) {
      throw explain(what, error);
    }
  }

  /** Opens a stream; the deadline covers only its opening. It is destroyed when `signal` aborts. */
  async open(
    what: string,
    timeoutMs: number,
    path: string,
    query: Record<string, string | boolean>,
    signal: AbortSignal,
  ): Promise<http.IncomingMessage> {
    try {
      // `cut` follows the deadline and, until the stream is open, `signal`.
      return await withDeadline(what, timeoutMs, (cut) => this.#dial(path, query, cut, signal), signal);
    } catch (error) {
      if (signal.aborted) throw error;
      throw explain(what, error);
    }
  }

  close(): void {
    for (const agent of this.#agents) agent.destroy();
  }

  #dial(
    path: string,
    query: Record<string, string | boolean>,
    cut: AbortSignal,
    signal: AbortSignal,
  ): Promise<http.IncomingMessage> {
    const request = {
      path: `${path}?`,
      method: 'GET',
      isStream: true,
      options: query,
      abortSignal: cut,
      statusCodes: { 200: true, 404: 'no such container', 500: 'server error' },
    };
    return new Promise((resolve, reject) => {
      this.#streams.modem.dial(request, (error: unknown, stream: unknown) => {
        if (error) return reject(error instanceof Error ? error : new Error('the engine refused the stream', { cause: error }));
        const opened = stream as http.IncomingMessage;
        if (cut.aborted) opened.destroy();
        const destroy = () => opened.destroy();
        signal.addEventListener('abort', destroy, { once: true });
        opened.once('close', () => signal.removeEventListener('abort', destroy));
        resolve(opened);
      });
    });
  }
}

/**
 * Reads a `DOCKER_HOST`. Every field is set, also where it is undefined, since the client would otherwise fill it in from the
 * environment of the process.
 */
function parseHost(dockerHost: string): Docker.DockerOptions {
  const blank = { host: undefined, port: undefined, protocol: 'http' as const, timeout: undefined };
  if (dockerHost.startsWith('unix://')) return { ...blank, socketPath: dockerHost.slice('unix://'.length) };
  if (dockerHost.startsWith('/')) return { ...blank, socketPath: dockerHost };
  if (!URL.canParse(dockerHost)) throw new AppError('invalid_request', 'DOCKER_HOST is neither unix:///path nor tcp://host:port');
  const url = new URL(dockerHost);
  if (url.protocol !== 'tcp:' && url.protocol !== 'http:') {
    throw new AppError('invalid_request', `DOCKER_HOST of kind ${url.protocol}// is not supported; use unix:// or tcp://`);
  }
  return { ...blank, socketPath: undefined, host: url.hostname, port: Number(url.port || 2375) };
}
