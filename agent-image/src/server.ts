import { createServer as createHttpServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import {
  createServer as createHttp2Server,
  type Http2ServerRequest,
  type Http2ServerResponse,
  type ServerHttp2Session,
} from 'node:http2';
import { rmSync } from 'node:fs';
import type { Socket } from 'node:net';
import type { Api } from './api.js';
import type { Credentials } from './credentials.js';
import { errorCode, type Log } from './log.js';
import type { AcceptLink } from './link.js';
import type { ListenAddress } from './settings.js';

/** Serves the API on links: HTTP/2 on connections that this side dialled. */
export class LinkServer {
  // What waits to be read by Berth counts as memory of the session, and Node refuses requests beyond the bound: 10 MB are a few
  // large answers. What one stream may pile up is bounded by its backpressure.
  readonly #server = createHttp2Server({ maxSessionMemory: 64, settings: { maxConcurrentStreams: 512 } });
  readonly #sessions = new Map<ServerHttp2Session, string>();

  constructor(api: Api, log: Log) {
    this.#server.on('request', (request: Http2ServerRequest, response: Http2ServerResponse) => {
      const session = request.stream.session as ServerHttp2Session | undefined;
      void api.handle(request, response, {
        proven: true,
        socket: session && this.#sessions.get(session),
        linkLost: () => session === undefined || session.destroyed,
      });
    });
    this.#server.on('sessionError', (error) => log.warn('link error', { code: errorCode(error) }));
  }

  /** Serves a connection whose roles have turned round. */
  accept: AcceptLink = (socket: Socket, socketPath: string) => {
    let accepted!: ServerHttp2Session;
    // Node announces the session while it takes the connection, before anything is read from it.
    this.#server.once('session', (session: ServerHttp2Session) => (accepted = session));
    this.#server.emit('connection', socket);
    this.#sessions.set(accepted, socketPath);
    accepted.once('close', () => this.#sessions.delete(accepted));
    return accepted;
  };

  /** Tells Berth that no new requests are taken; those in flight go on. */
  close(): void {
    for (const session of this.#sessions.keys()) session.close();
  }
}

/** Serves the same API over HTTP/1.1 to whoever has the token. For benchmarks and contract tests: off unless asked for. */
export async function listen(address: ListenAddress, api: Api, credentials: Credentials): Promise<Server> {
  const server = createHttpServer((request: IncomingMessage, response: ServerResponse) => {
    void api.handle(request, response, {
      proven: credentials.accepts(request.headers.authorization),
      socket: undefined,
      linkLost: () => false,
    });
  });
  if ('path' in address) rmSync(address.path, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(address, resolve);
  });
  return server;
}
