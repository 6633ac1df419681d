import http from 'node:http';
import https from 'node:https';
import { traceHeaders } from '../lib/trace.js';
import { ProviderError } from './provider.js';
import { Answer } from './answer.js';
import { refusalError } from './upstream-error.js';

/** Bounds on one call to an upstream; each has a default. */
export interface TransportLimits {
  /** Until TCP and TLS are up. */
  connectTimeoutMs: number;
  /** From then until the response's headers. */
  firstByteTimeoutMs: number;
  /** Longest silence within the body. Time in which the consumer does not ask for more does not count. */
  stallTimeoutMs: number;
  /** Longest single event, in characters. */
  maxEventBytes: number;
  /** Longest answer in all. */
  maxAnswerBytes: number;
}

const DEFAULT_TRANSPORT_LIMITS: TransportLimits = {
  connectTimeoutMs: 10_000,
  firstByteTimeoutMs: 60_000,
  stallTimeoutMs: 60_000,
  maxEventBytes: 4 * 1024 * 1024,
  maxAnswerBytes: 256 * 1024 * 1024,
};

export interface TransportOptions extends Partial<TransportLimits> {
  baseUrl: string;
  /** Sent with every request; credentials go here. */
  headers: Record<string, string>;
  /** Never shown in an error message. */
  secrets: string[];
}

/** The start of a refusal's body that is read, and for how long. */
const MAX_REFUSAL_BYTES = 64 * 1024;
const REFUSAL_TIMEOUT_MS = 5_000;
/** Idle connections are dropped before most servers and balancers drop them. */
const IDLE_SOCKET_MS = 30_000;

/**
 * POSTs JSON to one upstream over kept-alive HTTP/1.1 connections and hands back the answer to be pulled. Node's own client, not
 * fetch: it is faster and spares 18 MB of undici. Redirects are refused: they would carry the key elsewhere. Every failure is a
 * `ProviderError` whose message is fit for a tenant, or the signal's reason when the signal aborted.
 */
export class Transport {
  readonly #base: URL;
  readonly #headers: Record<string, string>;
  readonly #secrets: string[];
  readonly #limits: TransportLimits;
  readonly #agent: http.Agent;
  readonly #send: typeof http.request;

  constructor(options: TransportOptions) {
    this.#base = new URL(options.baseUrl.endsWith('/') ? options.baseUrl : `${options.baseUrl}/`);
    this.#headers = options.headers;
    this.#secrets = [...options.secrets, this.#base.host];
    this.#limits = definedOver(DEFAULT_TRANSPORT_LIMITS, options);
    const secure = this.#base.protocol === 'https:';
    const agentOptions = { keepAlive: true, maxFreeSockets: 64, scheduling: 'lifo' as const, timeout: IDLE_SOCKET_MS };
    this.#agent = secure ? new https.Agent(agentOptions) : new http.Agent(agentOptions);
    this.#send = secure ? https.request : http.request;
  }

  get secrets(): readonly string[] {
    return this.#secrets;
  }

  /** Sends `body` to `path` under the base URL; resolves once a 200 has come. The caller must `close()` the answer. */
  async post(path: string, body: unknown, signal: AbortSignal): Promise<Answer> {
    const bytes = bytesOf(body);
    const { request, response } = await this.#exchange(path, bytes, signal, true);
    const answer = new Answer(request, response, this.#limits, signal);
    if (response.statusCode === 200) return answer;
    try {
      const text = await answer.text(MAX_REFUSAL_BYTES, REFUSAL_TIMEOUT_MS);
      throw refusalError({ status: response.statusCode ?? 0, headers: response.headers, body: text }, this.#secrets);
    } finally {
      answer.close();
    }
  }

  /** Drops the idle connections; calls in flight go on. */
  close(): void {
    this.#agent.destroy();
  }

  async #exchange(path: string, body: Buffer, signal: AbortSignal, mayRetry: boolean): Promise<Exchange> {
    signal.throwIfAborted();
    const request = this.#send(new URL(path.replace(/^\//, ''), this.#base), {
      method: 'POST',
      agent: this.#agent,
      headers: {
        ...this.#headers,
        'content-type': 'application/json',
        'content-length': body.length,
        accept: 'text/event-stream, application/json',
        'accept-encoding': 'identity',
        'user-agent': 'berth',
        ...traceHeaders(),
      },
    });
    try {
      return { request, response: await headersOf(request, body, this.#limits, signal) };
    } catch (error) {
      // A kept connection that the server was closing at this moment: nothing was answered on it, so a fresh one may be tried.
      const reset = ['ECONNRESET', 'EPIPE'].includes((error as NodeJS.ErrnoException).code ?? '');
      if (reset && request.reusedSocket && mayRetry && !signal.aborted) return this.#exchange(path, body, signal, false);
      throw asProviderError(error, signal);
    }
  }
}

interface Exchange {
  request: http.ClientRequest;
  response: http.IncomingMessage;
}

function headersOf(
  request: http.ClientRequest,
  body: Buffer,
  limits: TransportLimits,
  signal: AbortSignal,
): Promise<http.IncomingMessage> {
  return new Promise((resolve, reject) => {
    let settled = false;
    let waits = 0;
    const fail = (error: unknown) => {
      if (settled) return;
      settle();
      request.on('error', () => undefined); // its destruction is reported here already
      request.destroy();
      reject(error);
    };
    // Where this process itself was held up, the answer may lie in the kernel: one look at it first.
    const late = (what: string, timeoutMs: number) => {
      const wait = ++waits;
      const failIfStill = () =>
        wait === waits ? fail(new ProviderError('stalled', `The provider ${what} within ${timeoutMs} ms`)) : undefined;
      return setTimeout(() => setImmediate(failIfStill), timeoutMs);
    };
    const onAbort = () => fail(signal.reason);
    const settle = () => {
      settled = true;
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      request.off('error', fail);
    };
    let timer = late('could not be reached', limits.connectTimeoutMs);
    const onConnected = () => {
      if (settled) return;
      clearTimeout(timer);
      timer = late('did not begin to answer', limits.firstByteTimeoutMs);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    request.on('error', fail);
    request.on('socket', (socket) => {
      if (!socket.connecting) onConnected();
      else socket.once('authorized' in socket ? 'secureConnect' : 'connect', onConnected);
    });
    request.on('response', (response) => {
      settle();
      resolve(response);
    });
    request.end(body);
  });
}

/** What the network said is for the log only (`cause`): it names hosts and ports. */
function asProviderError(error: unknown, signal: AbortSignal): unknown {
  if (signal.aborted || error instanceof ProviderError) return error;
  const code = (error as NodeJS.ErrnoException).code ?? '';
  const before = ['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'ENOENT'].includes(code);
  if (before) return new ProviderError('upstream', 'The provider could not be reached', { cause: error });
  if (code.startsWith('HPE_'))
    return new ProviderError('upstream', 'The provider answered with something that is not HTTP', { cause: error });
  return new ProviderError('upstream', 'The connection to the provider failed before it answered', { cause: error });
}

function bytesOf(body: unknown): Buffer {
  try {
    return Buffer.from(JSON.stringify(body));
  } catch (error) {
    throw new ProviderError('bad_request', 'The request is nested too deeply', { cause: error });
  }
}

function definedOver(defaults: TransportLimits, given: Partial<TransportLimits>): TransportLimits {
  const out = { ...defaults };
  for (const key of Object.keys(defaults) as (keyof TransportLimits)[]) out[key] = given[key] ?? defaults[key];
  return out;
}
