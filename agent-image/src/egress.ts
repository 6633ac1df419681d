import { Agent, request as httpRequest, type IncomingMessage, type RequestOptions } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Credentials } from './credentials.js';

/** The egress proxy said no, or could not. `reason` is its own text. */
export class EgressRefused extends Error {
  readonly status: number;
  readonly reason: string;

  constructor(status: number, reason: string) {
    super(reason);
    this.name = 'EgressRefused';
    this.status = status;
    this.reason = reason;
  }
}

const MOST_REASON_BYTES = 4096;
const TUNNEL_TIMEOUT_MS = 30_000;
/** With the model calls and the link below the number of connections that Berth takes from one instance. */
const MOST_TUNNELS = 16;
const MOST_PLAIN = 5;

/** The only way out of an instance: Berth's egress proxy, over whichever socket answers. */
export class Egress {
  readonly #sockets: () => string[];
  readonly #credentials: Credentials;
  readonly #tunnelSlots = new Slots(MOST_TUNNELS);
  readonly #plainSlots = new Slots(MOST_PLAIN);

  constructor(sockets: () => string[], credentials: Credentials) {
    this.#sockets = sockets;
    this.#credentials = credentials;
  }

  /** A connection to `host:port`. Throws `EgressRefused` with the proxy's reason. */
  async tunnel(authority: string, signal: AbortSignal): Promise<Duplex> {
    const leave = await this.#tunnelSlots.enter(signal);
    try {
      const tunnel = await this.#onAnySocket((socketPath) => this.#connect(socketPath, authority, signal));
      tunnel.once('close', leave);
      return tunnel;
    } catch (error) {
      leave();
      throw error;
    }
  }

  /** An `http://` request in absolute form. `send` writes the body; it is called once for each socket that is tried. */
  async forward(
    options: Pick<RequestOptions, 'method' | 'headers'> & { url: string; signal: AbortSignal },
    send: BodyWriter,
  ): Promise<IncomingMessage> {
    const leave = await this.#plainSlots.enter(options.signal);
    try {
      const response = await this.#onAnySocket((socketPath) => this.#forward(socketPath, options, send));
      response.once('close', leave);
      return response;
    } catch (error) {
      leave();
      throw error;
    }
  }

  async #onAnySocket<T>(call: (socketPath: string) => Promise<T>): Promise<T> {
    for (const socketPath of this.#sockets()) {
      try {
        return await call(socketPath);
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        if (code !== 'ECONNREFUSED' && code !== 'ENOENT') throw error;
      }
    }
    throw new EgressRefused(502, 'the egress proxy cannot be reached');
  }

  #connect(socketPath: string, authority: string, signal: AbortSignal): Promise<Duplex> {
    return new Promise((resolve, reject) => {
      const headers = { host: authority, 'proxy-authorization': `Bearer ${this.#credentials.token}` };
      const request = httpRequest({ socketPath, method: 'CONNECT', path: authority, headers, agent: false, signal });
      request.setTimeout(TUNNEL_TIMEOUT_MS, () =>
        request.destroy(new EgressRefused(504, 'the egress proxy did not answer in time')),
      );
      request.once('error', reject);
      request.once('connect', (response, socket: Duplex, head: Buffer) => {
        (socket as Duplex & { setTimeout?: (ms: number) => void }).setTimeout?.(0);
        if (head.length > 0) socket.unshift(head);
        if (response.statusCode === 200) return resolve(socket);
        void readReason(socket).then((reason) => reject(new EgressRefused(response.statusCode ?? 502, reason)));
      });
      request.end();
    });
  }

  #forward(
    socketPath: string,
    { url, method, headers, signal }: Pick<RequestOptions, 'method' | 'headers'> & { url: string; signal: AbortSignal },
    send: BodyWriter,
  ): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      const withToken = { ...(headers as object), 'proxy-authorization': `Bearer ${this.#credentials.token}` };
      // Kept open until the answer is read: one that closes at once fails the write of nothing that ends a body (EPIPE), and the
      // answer is lost with it. An agent of its own, since a connection used again may have been closed meanwhile.
      const agent = new Agent({ keepAlive: true });
      const request = httpRequest({ socketPath, path: url, headers: withToken, agent, signal, ...(method ? { method } : {}) });
      request.once('error', reject);
      request.once('response', resolve);
      request.once('close', () => agent.destroy());
      send(request);
    });
  }
}

export type BodyWriter = (request: NodeJS.WritableStream) => void;

/** What the proxy wrote after the head of its refusal. */
async function readReason(socket: Duplex): Promise<string> {
  let text = '';
  const giveUp = setTimeout(() => socket.destroy(), 1000);
  try {
    for await (const piece of socket as AsyncIterable<Buffer>) {
      text += piece.toString('utf8');
      if (text.length >= MOST_REASON_BYTES) break;
    }
  } catch {
    // The beginning of the reason has to do.
  } finally {
    clearTimeout(giveUp);
    socket.destroy();
  }
  return text.slice(0, MOST_REASON_BYTES).trim() || 'no reason given';
}

/** A number of places that callers take and leave, in the order they came. */
class Slots {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(count: number) {
    this.#free = count;
  }

  async enter(signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    if (this.#free > 0) this.#free -= 1;
    else await this.#wait(signal);
    let left = false;
    return () => {
      if (left) return;
      left = true;
      this.#leave();
    };
  }

  #wait(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const abort = () => {
        this.#waiting.splice(this.#waiting.indexOf(turn), 1);
        reject(signal.reason);
      };
      const turn = () => {
        signal.removeEventListener('abort', abort);
        resolve();
      };
      signal.addEventListener('abort', abort, { once: true });
      this.#waiting.push(turn);
    });
  }

  #leave(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#free += 1;
  }
}
