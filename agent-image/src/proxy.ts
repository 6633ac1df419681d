import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { pipeline, type Duplex } from 'node:stream';
import { EgressRefused, type Egress } from './egress.js';
import { errorCode, type Log } from './log.js';

/** Headers that concern one connection only and are not passed on. */
const HOP_BY_HOP = [
  'connection',
  'keep-alive',
  'proxy-connection',
  'proxy-authorization',
  'proxy-authenticate',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
];

/**
 * A proxy on 127.0.0.1 for programs that the shell tool starts: it takes requests without credentials, adds the instance's, and
 * relays them to Berth's egress proxy, which decides.
 */
export class ForwardProxy {
  readonly #egress: Egress;
  readonly #log: Log;
  readonly #server: Server;

  constructor(egress: Egress, log: Log) {
    this.#egress = egress;
    this.#log = log;
    this.#server = createServer((request, response) => void this.#forward(request, response));
    this.#server.on(
      'connect',
      (request: IncomingMessage, client: Duplex, head: Buffer) => void this.#tunnel(request, client, head),
    );
  }

  /** The port it listens on, where it does. */
  get port(): number | undefined {
    return (this.#server.address() as AddressInfo | null)?.port;
  }

  /** Begins to listen. A port that is taken is logged and lived without: agents then have no way out from the shell. */
  listen(port: number): void {
    this.#server.on('error', (error) => this.#log.warn('forward proxy not started', { code: errorCode(error) }));
    this.#server.listen(port, '127.0.0.1');
  }

  close(): void {
    this.#server.close();
  }

  async #tunnel(request: IncomingMessage, client: Duplex, head: Buffer): Promise<void> {
    const gone = new AbortController();
    client.on('error', () => client.destroy());
    client.once('close', () => gone.abort(new Error('the client went away')));
    try {
      const tunnel = await this.#egress.tunnel(request.url ?? '', gone.signal);
      client.write('HTTP/1.1 200 Connection Established\r\n\r\n');
      if (head.length > 0) tunnel.write(head);
      pipeline(client, tunnel, ignore);
      pipeline(tunnel, client, ignore);
    } catch (error) {
      const { status, reason } = refusalOf(error);
      client.end(
        `HTTP/1.1 ${status} Refused\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: ${Buffer.byteLength(reason)}\r\nConnection: close\r\n\r\n${reason}`,
      );
    }
  }

  async #forward(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const gone = new AbortController();
    response.once('close', () => gone.abort(new Error('the client went away')));
    try {
      const url = request.url ?? '';
      if (!url.startsWith('http://'))
        throw new EgressRefused(400, 'this is a proxy: it takes absolute http:// addresses and CONNECT');
      const headers = withoutHopByHop(request.headers);
      const options = { url, headers, signal: gone.signal, ...(request.method ? { method: request.method } : {}) };
      const answer = await this.#egress.forward(options, (upstream) => void pipeline(request, upstream, ignore));
      response.writeHead(answer.statusCode ?? 502, withoutHopByHop(answer.headers));
      pipeline(answer, response, ignore);
    } catch (error) {
      const { status, reason } = refusalOf(error);
      if (!response.headersSent) response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8' });
      response.end(reason);
    }
  }
}

function withoutHopByHop(headers: IncomingMessage['headers']): IncomingMessage['headers'] {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !HOP_BY_HOP.includes(name)));
}

function refusalOf(error: unknown): { status: number; reason: string } {
  if (error instanceof EgressRefused) return { status: error.status, reason: `${error.reason}\n` };
  return { status: 502, reason: 'the egress proxy cannot be reached\n' };
}

/** Either side may go away at any time; pipeline has then ended the other, and there is nobody to tell. */
function ignore(): void {}
