import { request as requestHttp } from 'node:http';
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { type BlockList, connect, isIP, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { connect as connectTls } from 'node:tls';
import { AppError } from '../lib/errors.js';
import { dialChecked, parseDenied, resolveChecked } from '../link/resolve.js';

/** How long the registry may take, and how often it may send us elsewhere. */
export interface ExchangeLimits {
  connectMs: number;
  firstByteMs: number;
  /** Between two pieces of an answer. */
  stallMs: number;
  /** For everything, redirects included. */
  totalMs: number;
  redirects: number;
}

export const EXCHANGE_LIMITS: ExchangeLimits = {
  connectMs: 5_000,
  firstByteMs: 15_000,
  stallMs: 10_000,
  totalMs: 60_000,
  redirects: 4,
};

export interface Wish {
  method: 'GET' | 'POST';
  url: URL;
  /** Sent as JSON. */
  body?: unknown;
  /** Bytes of an answer that is 200; of all others less is read. */
  limitBytes: number;
  signal?: AbortSignal | undefined;
}

export interface Reply {
  status: number;
  headers: IncomingHttpHeaders;
  bytes: Buffer;
}

const ERROR_BYTES = 64 * 1024;

/**
 * Asks a registry. Its origin was chosen by the operator and may be anywhere; wherever it sends us besides must be a public address, which is
 * looked up once and dialled as it was checked.
 */
export class Exchange {
  readonly #origin: string;
  readonly #limits: ExchangeLimits;
  readonly #deny: BlockList;

  /** `deny`: addresses and networks that are refused besides those of no public use. */
  constructor(base: URL, { limits, deny = [] }: { limits?: Partial<ExchangeLimits> | undefined; deny?: string[] } = {}) {
    this.#origin = base.origin;
    this.#limits = { ...EXCHANGE_LIMITS, ...limits };
    this.#deny = parseDenied(deny);
  }

  /** The answer after redirects. Throws `unavailable`, `timeout` or `upstream_error`; never for a status. */
  async ask(wish: Wish): Promise<Reply> {
    const { totalMs, redirects } = this.#limits;
    const tooLong = AbortSignal.timeout(totalMs);
    const signal = wish.signal ? AbortSignal.any([wish.signal, tooLong]) : tooLong;
    let { url } = wish;
    try {
      for (let left = redirects; ; left -= 1) {
        this.#check(url);
        const reply = await this.#once({ ...wish, url, signal });
        const next = redirectOf(reply, url);
        if (next === undefined) return reply;
        if (wish.method !== 'GET' || left === 0) throw new AppError('upstream_error', 'the registry sends us around in circles');
        url = next;
      }
    } catch (error) {
      wish.signal?.throwIfAborted();
      if (tooLong.aborted) throw new AppError('timeout', `the registry took more than ${totalMs / 1000} s`, { cause: error });
      throw error;
    }
  }

  #check(url: URL): void {
    if (url.origin === this.#origin) return;
    if (!['http:', 'https:'].includes(url.protocol) || url.username !== '' || url.password !== '')
      throw new AppError('upstream_error', 'the registry sends us to an address that is no plain URL');
    if (url.protocol === 'http:' && this.#origin.startsWith('https:'))
      throw new AppError('upstream_error', 'the registry sends us to an address without TLS');
    if (url.port !== '') throw new AppError('upstream_error', 'the registry sends us to an unusual port');
  }

  async #once(wish: Wish & { signal: AbortSignal }): Promise<Reply> {
    const socket = await this.#open(wish.url, wish.signal);
    const { limitBytes, signal } = wish;
    try {
      const answer = await this.#send(socket, wish);
      const status = answer.statusCode ?? 0;
      const bytes = await collect(
        answer,
        status === 200 ? limitBytes : ERROR_BYTES,
        status === 200,
        this.#limits.stallMs,
        signal,
      );
      return { status, headers: answer.headers, bytes };
    } finally {
      socket.destroy();
    }
  }

  async #open(url: URL, signal: AbortSignal): Promise<Duplex> {
    const host = url.hostname.replace(/^\[|\]$/g, '');
    const port = Number(url.port || (url.protocol === 'https:' ? 443 : 80));
    const { connectMs } = this.#limits;
    const socket =
      url.origin === this.#origin
        ? await dial(host, port, connectMs, signal)
        : await dialPublic(host, port, this.#deny, connectMs, signal);
    return url.protocol === 'https:' ? secure(socket, host, connectMs, signal) : socket;
  }

  #send(socket: Duplex, { method, url, body, signal }: Wish): Promise<IncomingMessage> {
    const text = body === undefined ? undefined : JSON.stringify(body);
    return new Promise((resolve, reject) => {
      const request = requestHttp({
        method,
        path: url.pathname + url.search,
        headers: {
          host: url.host,
          accept: 'application/json, application/zip, text/plain',
          'accept-encoding': 'identity',
          'user-agent': 'berth',
          connection: 'close',
          ...(text === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) }),
        },
        createConnection: () => socket,
        signal,
      });
      const timer = setTimeout(
        () => request.destroy(new AppError('timeout', 'the registry does not answer in time')),
        this.#limits.firstByteMs,
      );
      request.once('response', (answer) => (clearTimeout(timer), resolve(answer)));
      request.once('error', (error) => (clearTimeout(timer), reject(broken(error))));
      request.end(text);
    });
  }
}

/** Where a reply sends us, if it does. */
function redirectOf({ status, headers }: Reply, from: URL): URL | undefined {
  if (![301, 302, 303, 307, 308].includes(status) || headers.location === undefined) return undefined;
  if (!URL.canParse(headers.location, from.href)) throw new AppError('upstream_error', 'the registry sends us to no address');
  return new URL(headers.location, from);
}

/** Reads an answer, counting; one that is no success is read as far as it may be shown. */
async function collect(
  answer: IncomingMessage,
  limitBytes: number,
  whole: boolean,
  stallMs: number,
  signal: AbortSignal,
): Promise<Buffer> {
  const declared = Number(answer.headers['content-length'] ?? 0);
  if (whole && declared > limitBytes) throw tooLarge(limitBytes);
  if (answer.headers['content-encoding'] !== undefined && answer.headers['content-encoding'] !== 'identity')
    throw new AppError('upstream_error', 'the registry compresses what it was asked not to');
  const chunks: Buffer[] = [];
  let size = 0;
  const stalled = () => answer.destroy(new AppError('timeout', 'the registry stopped in the middle of its answer'));
  let timer = setTimeout(stalled, stallMs);
  try {
    for await (const chunk of answer) {
      clearTimeout(timer);
      size += (chunk as Buffer).length;
      chunks.push(chunk as Buffer);
      if (size > limitBytes) {
        if (whole) throw tooLarge(limitBytes);
        break;
      }
      timer = setTimeout(stalled, stallMs);
    }
  } catch (error) {
    signal.throwIfAborted();
    throw broken(error);
  } finally {
    clearTimeout(timer);
  }
  return Buffer.concat(chunks).subarray(0, limitBytes);
}

function tooLarge(limitBytes: number): AppError {
  return new AppError('upstream_error', `the registry's answer is larger than ${limitBytes} bytes`);
}

function broken(error: unknown): unknown {
  if (error instanceof AppError || (error instanceof Error && error.name === 'AbortError')) return error;
  return new AppError('upstream_error', 'the registry broke off its answer, or it is not HTTP', { cause: error });
}

/** A connection to where the operator said. */
function dial(host: string, port: number, timeoutMs: number, signal: AbortSignal): Promise<Socket> {
  const away = (error: unknown) =>
    new AppError('unavailable', 'the registry cannot be reached', { cause: error, retryAfterS: 30 });
  return opened(connect({ host, port, noDelay: true }), 'connect', timeoutMs, signal, away);
}

async function dialPublic(host: string, port: number, deny: BlockList, timeoutMs: number, signal: AbortSignal): Promise<Socket> {
  try {
    return await dialChecked(await resolveChecked(host, { timeoutMs, deny }), port, { timeoutMs, signal });
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof AppError && ['forbidden', 'invalid_request'].includes(error.code))
      throw new AppError('upstream_error', 'the registry sends us to an address that is not public', { cause: error });
    throw new AppError('unavailable', 'the address that the registry sends us to cannot be reached', {
      cause: error,
      retryAfterS: 30,
    });
  }
}

function secure(socket: Socket, host: string, timeoutMs: number, signal: AbortSignal): Promise<Duplex> {
  const named = isIP(host) === 0 ? { servername: host } : {};
  const failed = (error: unknown) => new AppError('upstream_error', 'the registry has no valid TLS', { cause: error });
  return opened(connectTls({ socket, ALPNProtocols: ['http/1.1'], ...named }), 'secureConnect', timeoutMs, signal, failed);
}

function opened<T extends Socket>(
  socket: T,
  event: 'connect' | 'secureConnect',
  timeoutMs: number,
  signal: AbortSignal,
  wrap: (error: unknown) => AppError,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const settle = (act: () => void) => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      act();
    };
    const fail = (error: unknown) => settle(() => (socket.destroy(), reject(error)));
    const onAbort = () => fail(signal.reason);
    const timer = setTimeout(() => fail(new AppError('timeout', 'the registry does not answer in time')), timeoutMs);
    signal.addEventListener('abort', onAbort, { once: true });
    // Stays for good: a connection that breaks later must end nothing but its own exchange.
    socket.on('error', (error) => fail(wrap(error)));
    socket.once(event, () => settle(() => resolve(socket)));
    if (signal.aborted) onAbort();
  });
}
