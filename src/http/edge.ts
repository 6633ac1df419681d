import type { IncomingMessage, ServerResponse } from 'node:http';
import type { OpenAPIHono } from '@hono/zod-openapi';
import { AppError } from '../lib/errors.js';
import { newId } from '../lib/ids.js';
import type { Log } from '../lib/log.js';
import { inTrace, type Trace, traceFrom, traceparentOf } from '../lib/trace.js';
import { type AuditTrail, refusedIn, wasRefused } from './audit.js';
import type { Authenticator } from './authenticate.js';
import type { UserDirectory } from './authorize.js';
import { errorResponse, isOfClient, publicError } from './errors.js';
import { type GuardRule, ruleOf } from './guard.js';
import type { IdempotencyStore } from './idempotency.js';
import type { HttpMetrics } from './metrics.js';
import type { Pace } from './pace.js';
import { meaningsOf, pathOfTarget } from './path.js';
import { ClientAddress, type RateLimitOptions, RateLimits, type RequestsPerMinute } from './rate-limit.js';
import { type EdgeServices, type Env, RequestState } from './request-state.js';
import type { Router } from './router.js';

const METHODS = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'] as const;
const SANE_ID = /^[\w.~:-]{1,128}$/;
const CLIENT_GONE = 499;
const DEFAULT_BODY_BYTES = 1_000_000;
/** On every answer; a handler that sets one of them wins. Nothing of the API is to be kept by a cache or shown in a frame. */
const HEADERS: readonly (readonly [string, string])[] = [
  ['X-Content-Type-Options', 'nosniff'],
  ['Referrer-Policy', 'no-referrer'],
  ['Content-Security-Policy', "default-src 'none'; frame-ancestors 'none'"],
  ['Cross-Origin-Opener-Policy', 'same-origin'],
  ['Cross-Origin-Resource-Policy', 'same-origin'],
  ['Cache-Control', 'no-store'],
];

export interface EdgeOptions {
  authenticator: Authenticator;
  directory: UserDirectory;
  log: Log;
  config: { corsOrigins: readonly string[]; trustedProxies: readonly string[] };
  /** Requests per minute of a caller. */
  limits: RequestsPerMinute;
  rates?: Omit<RateLimitOptions, 'perKey'>;
  idempotency?: IdempotencyStore;
  audit?: AuditTrail;
  metrics?: HttpMetrics;
  bodyLimitBytes?: number;
  /** How slowly streams may pass, where that is not to be as usual. */
  pace?: Pace;
}

/** What node-server hands over with a request; nothing in tests that call `fetch` themselves. */
interface Connection {
  incoming?: IncomingMessage;
  outgoing?: ServerResponse;
}

/** The outside of the API: everything that is so for all routes. Takes over the app's routing, its errors and its 404. */
export class Edge {
  readonly #app: OpenAPIHono<Env>;
  readonly #services: EdgeServices;
  /** For the line of a request: it holds nothing that needs to be looked for, and looking costs more than the rest of the edge. */
  readonly #lines: Log;
  readonly #metrics: HttpMetrics | undefined;
  readonly #address: ClientAddress;
  readonly #corsOrigins: ReadonlySet<string>;

  constructor(app: Router, options: EdgeOptions) {
    this.#app = app as unknown as OpenAPIHono<Env>;
    this.#services = {
      authenticator: options.authenticator,
      directory: options.directory,
      rateLimits: new RateLimits({ perKey: options.limits, ...options.rates }),
      idempotency: options.idempotency,
      audit: options.audit,
      look: (state) => this.#look(state),
      log: options.log,
      bodyLimitBytes: options.bodyLimitBytes ?? DEFAULT_BODY_BYTES,
      pace: options.pace,
    };
    this.#lines = options.log.child({}, { redact: { paths: [] } });
    this.#metrics = options.metrics;
    this.#address = new ClientAddress(options.config.trustedProxies);
    this.#corsOrigins = new Set(options.config.corsOrigins);
    refuseUnguarded(this.#app);
    Object.assign(this.#app, { getPath: (_: Request, { env }: { env: Env['Bindings'] }) => env.berth.path });
    this.#app.onError((thrown, c) => this.#failed(c.env.berth, thrown));
    this.#app.notFound((c) => this.#failed(c.env.berth, this.#unrouted(c.req.method, pathOf(c.req.raw, c.env))));
  }

  /** Answers a request; given to node-server. Never rejects. */
  readonly fetch = (request: Request, given: object = {}): Promise<Response> => {
    const connection: Connection = given;
    const trace = traceFrom(headerIn(request, connection.incoming, 'traceparent'));
    return inTrace(trace, () => this.#answer(request, connection, trace));
  };

  async #answer(request: Request, connection: Connection, trace: Trace): Promise<Response> {
    const { incoming, outgoing } = connection;
    const ip = this.#address.of(incoming?.socket.remoteAddress ?? '127.0.0.1', headerIn(request, incoming, 'x-forwarded-for'));
    const state = new RequestState(this.#services, requestIdFor(headerIn(request, incoming, 'x-request-id')), ip, outgoing);
    const env = Object.assign(connection, { berth: state });
    this.#metrics?.began();
    let response: Response;
    try {
      this.#setHeaders(state, headerIn(request, incoming, 'origin'));
      state.setHeader('Traceresponse', traceparentOf(trace));
      const path = pathOf(request, connection);
      state.path = this.#route(request.method, path);
      response = request.method === 'OPTIONS' ? this.#options(request, state, path) : await this.#app.fetch(request, env);
    } catch (thrown) {
      response = this.#failed(state, thrown);
    }
    this.#ended(request, state, response, outgoing);
    return state.streamed ? response : state.applyHeaders(response);
  }

  /** Answers what node-server could not make a Request of: `errorHandler` of its request listener. */
  readonly refuse = (thrown: unknown): Response => {
    const isRefusal = thrown instanceof Error && thrown.name === 'RequestError';
    if (!isRefusal) this.#services.log.error({ err: thrown }, 'a request failed outside its handler');
    return errorResponse(
      new AppError(isRefusal ? 'invalid_request' : 'internal', isRefusal ? 'malformed request' : 'internal server error'),
      newId('req'),
      false,
    );
  };

  #route(method: string, path: string): string {
    const meanings = meaningsOf(path);
    const routed = method === 'HEAD' ? 'GET' : method;
    return (meanings.length > 1 ? meanings.find((meaning) => this.#matches(routed, meaning)) : undefined) ?? meanings[0]!;
  }

  #matches(method: string, path: string): boolean {
    return this.#app.router.match(method, path)[0].length > 0;
  }

  #readRule(path: string): GuardRule | undefined {
    const [handlers] = this.#app.router.match('GET', path);
    return handlers.map(([[handler]]) => ruleOf(handler)).find((rule) => rule !== undefined);
  }

  /** Asks the route that reads what a request changes, in the name of its caller, who was let in. */
  async #look(asking: RequestState): Promise<Uint8Array | undefined> {
    const { services, requestId, ip, caller, tenantId, path } = asking;
    const rule = this.#readRule(path);
    if (!rule || rule.waits) return undefined;
    const inner = Object.assign(new RequestState(services, requestId, ip, undefined), { caller, tenantId, path, isInner: true });
    const response = await this.#app.fetch(new Request(new URL(path, 'http://berth')), { berth: inner });
    return response.status === 200 ? new Uint8Array(await response.arrayBuffer()) : undefined;
  }

  #allowed(path: string): string[] {
    const methods = METHODS.filter((method) => meaningsOf(path).some((meaning) => this.#matches(method, meaning)));
    return methods.flatMap((method) => (method === 'GET' ? ['GET', 'HEAD'] : [method]));
  }

  #unrouted(method: string, path: string): AppError {
    const allow = this.#allowed(path);
    if (allow.length === 0) return new AppError('no_route', 'no such route');
    const said = METHODS.some((known) => known === method) ? method : 'this method';
    return new AppError('method_not_allowed', `${said} is not allowed here`, { headers: { Allow: allow.join(', ') } });
  }

  #failed(state: RequestState, thrown: unknown): Response {
    const error = publicError(thrown, state.bodyText);
    state.error = error;
    for (const [name, value] of Object.entries(error.headers ?? {})) state.setHeader(name, value);
    return errorResponse(error, state.requestId, state.path.startsWith('/v1/'));
  }

  #setHeaders(state: RequestState, origin: string | undefined): void {
    for (const [name, value] of HEADERS) state.setHeader(name, value);
    state.setHeader('X-Request-Id', state.requestId);
    if (this.#corsOrigins.size === 0) return;
    state.setHeader('Vary', 'Origin');
    if (origin === undefined || !(this.#corsOrigins.has(origin) || this.#corsOrigins.has('*'))) return;
    state.setHeader('Access-Control-Allow-Origin', origin);
    state.setHeader(
      'Access-Control-Expose-Headers',
      'X-Request-Id, Traceresponse, Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Idempotency-Replayed, ' +
        'ETag, Accept-Ranges, Content-Range, Content-Disposition, Last-Modified, X-Berth-Kind, Berth-Turn',
    );
    state.setHeader('Cross-Origin-Resource-Policy', 'cross-origin');
  }

  /** OPTIONS on a known path names its methods; with CORS on it answers the browser's question as well. */
  #options(request: Request, state: RequestState, path: string): Response {
    const allow = this.#allowed(path);
    if (allow.length === 0) throw new AppError('no_route', 'no such route');
    const headers: Record<string, string> = { Allow: [...allow, 'OPTIONS'].join(', ') };
    if (this.#corsOrigins.size > 0 && request.headers.get('access-control-request-method') !== null) {
      headers['Access-Control-Allow-Methods'] = allow.join(', ');
      headers['Access-Control-Allow-Headers'] =
        'Authorization, X-API-Key, X-Workspace-ID, X-Request-Id, Content-Type, Idempotency-Key, If-Match, If-None-Match, If-Range, Range, Last-Event-ID, Traceparent';
      headers['Access-Control-Max-Age'] = '600';
    }
    state.route = 'options';
    return new Response(null, { status: 204, headers });
  }

  #ended(request: Request, state: RequestState, response: Response, outgoing: ServerResponse | undefined): void {
    const { method } = request;
    const ms = performance.now() - state.startedMs;
    const gone = state.streamed ? state.streamed.broken : (outgoing?.destroyed ?? false);
    const status = gone ? CLIENT_GONE : (state.streamed?.status ?? response.status);
    this.#metrics?.ended(state.route, method, status, ms / 1000);
    if (wasRefused(state)) this.#services.audit?.refused(refusedIn(state), { status, code: state.error?.code });
    const line = {
      method,
      route: state.route,
      status,
      ms: Math.round(ms * 100) / 100,
      request_id: state.requestId,
      key_id: state.caller?.keyId,
    };
    if (state.error && !(gone && isOfAbort(state.error, request.signal))) this.#logError(state.error, line, state.ip);
    else if (state.quiet) this.#lines.debug(line, 'request');
    else this.#lines.info(line, 'request');
  }

  #logError(error: AppError, line: Record<string, unknown>, ip: string): void {
    const { log } = this.#services;
    const said = { ...line, code: error.code };
    if (error.code === 'internal') log.error({ ...said, err: error.cause ?? error }, 'request failed');
    else if (error.cause !== undefined && !isOfClient(error.code)) log.warn({ ...said, err: error.cause }, error.message);
    else this.#lines.info(error.code === 'unauthorized' || error.code === 'rate_limited' ? { ...said, ip } : said, 'request');
  }
}

/** Whether an error may well be there because the client went: an abort passed on, or a refusal nobody will read. */
function isOfAbort({ code, cause }: AppError, signal: AbortSignal): boolean {
  // node-server aborts with a text, and that is what `throwIfAborted` throws.
  if (signal.aborted && cause === signal.reason) return true;
  return code !== 'internal' || (cause instanceof Error && ['AbortError', 'ClientGone'].includes(cause.name));
}

/** The request target as it was sent, where there is one. */
function pathOf(request: Request, connection: Connection): string {
  return pathOfTarget(connection.incoming?.url ?? request.url);
}

function headerIn(request: Request, incoming: IncomingMessage | undefined, name: string): string | undefined {
  if (!incoming) return request.headers.get(name) ?? undefined;
  const value = incoming.headers[name];
  return typeof value === 'string' ? value : value?.join(', ');
}

function requestIdFor(offered: string | undefined): string {
  return offered !== undefined && SANE_ID.test(offered) ? offered : newId('req');
}

function refuseUnguarded(app: OpenAPIHono<Env>): void {
  const seen = new Map<string, boolean>();
  for (const { method, path, handler } of app.routes) {
    const route = `${method} ${path}`;
    seen.set(route, (seen.get(route) ?? false) || ruleOf(handler) !== undefined);
  }
  const open = [...seen].filter(([, isGuarded]) => !isGuarded).map(([route]) => route);
  if (open.length > 0) throw new Error(`routes that declare no access: ${open.join(', ')}`);
}
