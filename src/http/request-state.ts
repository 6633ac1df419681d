import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Caller } from '../lib/caller.js';
import type { AppError } from '../lib/errors.js';
import type { Log } from '../lib/log.js';
import type { AuditTrail } from './audit.js';
import type { Authenticator } from './authenticate.js';
import type { UserDirectory } from './authorize.js';
import type { IdempotencyStore } from './idempotency.js';
import type { Pace } from './pace.js';
import type { RateLimits } from './rate-limit.js';
import type { SocketOffer } from './sockets.js';

/** What a guard needs of the outside; one object for all requests. */
export interface EdgeServices {
  authenticator: Authenticator;
  directory: UserDirectory;
  rateLimits: RateLimits;
  idempotency: IdempotencyStore | undefined;
  audit: AuditTrail | undefined;
  /** What GET of the request's path answers its caller at this moment; undefined where there is no such, or it is not to be had at once. */
  look(state: RequestState): Promise<Uint8Array | undefined>;
  log: Log;
  bodyLimitBytes: number;
  /** How slowly streams may pass, where that is not to be as usual. */
  pace?: Pace | undefined;
}

/** What Hono's context carries: node-server's two objects where the request came over HTTP, and Berth's own state of the request. */
export interface Env {
  Bindings: {
    incoming?: IncomingMessage;
    outgoing?: ServerResponse;
    berth: RequestState;
    /** Where the request asks for a WebSocket. */
    socketOffer?: SocketOffer;
  };
}

/** Gets a copy of what is streamed to the client; `idempotency.ts` keeps it. */
export interface StreamCopy {
  add(chunk: string | Uint8Array): void;
  /** The stream ended as it should; without this call nothing is kept. */
  complete(): void;
}

/** All that the edge knows of one request. Made by the edge before routing, filled by the guard of the matched route. */
export class RequestState {
  readonly services: EdgeServices;
  readonly requestId: string;
  /** The path that is routed: canonical, never decoded. */
  path = '';
  readonly startedMs = performance.now();
  /** Pattern of the matched route, such as `/api/v1/users/:user`; `none` where no route matched. */
  route = 'none';
  /** Operation id of the matched route. */
  operation = 'none';
  /** Not worth an info line: health checks and the like. */
  quiet = false;
  caller: Caller | undefined;
  tenantId: string | undefined;
  readonly ip: string;
  /** The text of a JSON body, kept to say where it does not parse. */
  bodyText: string | undefined;
  /** Set while the answer of an idempotent request is being kept. */
  streamCopy: StreamCopy | undefined;
  /** Its beginning is in the audit trail, and its end will be. */
  inTrail = false;
  /** Made by the edge itself, within another request whose caller was let in. */
  isInner = false;
  /** The edge refused the request before its handler ran. */
  refused = false;
  /** Set when the answer was written as a stream, past Hono: its Response is a stand-in then. */
  streamed:
    | { status: number; headers: Record<string, string>; /** The client left before its end. */ broken: boolean }
    | undefined;
  /** Why the request failed, for the log. */
  error: AppError | undefined;
  readonly #outgoing: ServerResponse | undefined;
  #headers: [string, string][] | undefined;

  constructor(services: EdgeServices, requestId: string, ip: string, outgoing: ServerResponse | undefined) {
    this.services = services;
    this.requestId = requestId;
    this.ip = ip;
    this.#outgoing = outgoing;
  }

  /** Sets a header of the answer, whatever that will be. Straight on Node's response: a Headers object per answer costs more. */
  setHeader(name: string, value: string): void {
    if (this.#outgoing) {
      if (!this.#outgoing.headersSent) this.#outgoing.setHeader(name, value);
    } else (this.#headers ??= []).push([name, value]);
  }

  /** Puts what `setHeader` collected on an answer that does not go through Node's response. What the handler set wins. */
  applyHeaders(response: Response): Response {
    if (!this.#headers) return response;
    const headers = new Headers(response.headers);
    for (const [name, value] of this.#headers) if (!headers.has(name)) headers.set(name, value);
    return new Response(response.body, { status: response.status, headers });
  }
}
