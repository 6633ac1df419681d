import { createServer, type Server, type ServerOptions } from 'node:http';
import type { AddressInfo } from 'node:net';
import { getRequestListener } from '@hono/node-server';
import { z } from '@hono/zod-openapi';
import { pino } from 'pino';
import { Edge, type EdgeOptions } from '../../src/http/edge.js';
import { callerOf, createRouter, requestIdOf, route, type Router, tenantOf } from '../../src/http/router.js';
import { refuseBadHttp, SERVER_OPTIONS } from '../../src/http/server.js';
import { type EventSink, streamEvents } from '../../src/http/sse.js';
import type { Caller } from '../../src/lib/caller.js';
import { AppError } from '../../src/lib/errors.js';

const ADA = { userId: 'usr_ada', userName: 'ada', tier: 'free' };
const BOB = { userId: 'usr_bob', userName: 'bob', tier: 'free' };

/** The keys of the toy: two users, each with agents, and an admin. */
export const CALLERS: Record<string, Caller> = {
  'admin-key': { kind: 'admin', keyId: 'key_admin' },
  'ada-key': { kind: 'user', keyId: 'key_ada', ...ADA },
  'bob-key': { kind: 'user', keyId: 'key_bob', ...BOB },
  'ada-helper-key': { kind: 'agent', keyId: 'key_ada_helper', ...ADA, agentId: 'agt_helper', agentName: 'helper' },
  'bob-agent-key': { kind: 'agent', keyId: 'key_bob_agent', ...BOB, agentId: 'agt_bobs', agentName: 'bobs' },
  'ada-other-key': { kind: 'agent', keyId: 'key_ada_other', ...ADA, agentId: 'agt_other', agentName: 'other' },
};

export interface ToyHooks {
  /** What `POST …/agents` does before it answers; the signal is that of the request. */
  onCreate?: (signal: AbortSignal) => Promise<void> | void;
  /** What `GET …/agents/{agent}/stream` and its POST produce. */
  onStream?: (sink: EventSink) => Promise<void>;
}

const tags = ['Toy'];

/** Agents of users, as the real routes are shaped. */
export function agentRoutes(hooks: ToyHooks): Router {
  const router = createRouter();
  const Agent = z.object({ name: z.string(), user: z.string() });
  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/agents',
      access: 'user',
      tags,
      summary: 'List agents',
      request: { query: z.object({ limit: z.coerce.number().int().min(1).max(200).optional() }) },
      responses: {
        200: { description: 'Agents.', content: { 'application/json': { schema: z.object({ data: z.array(Agent) }) } } },
      },
    }),
    (c) => c.json({ data: [{ name: 'helper', user: tenantOf(c) }] }, 200),
  );
  router.openapi(
    route({
      method: 'post',
      path: '/users/{user}/agents',
      access: 'user',
      tags,
      summary: 'Create an agent',
      request: {
        body: {
          required: true,
          content: {
            'application/json': {
              schema: z.strictObject({ name: z.string().min(1).max(64), password: z.string().max(5).optional() }),
            },
          },
        },
      },
      responses: { 201: { description: 'The agent.', content: { 'application/json': { schema: Agent } } } },
    }),
    async (c) => {
      await hooks.onCreate?.(c.req.raw.signal);
      return c.json({ name: c.req.valid('json').name, user: tenantOf(c) }, 201, { Location: '/somewhere' });
    },
  );
  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/agents/{agent}',
      access: 'agent',
      tags,
      summary: 'Get an agent',
      responses: { 200: { description: 'The agent.', content: { 'application/json': { schema: Agent } } } },
    }),
    (c) => {
      const name = c.req.param('agent');
      if (!['helper', 'agt_helper', 'other', 'agt_other'].includes(name)) throw new AppError('not_found', 'agent not found');
      return c.json({ name, user: tenantOf(c) }, 200);
    },
  );
  router.openapi(
    route({
      method: 'delete',
      path: '/users/{user}/agents/{agent}',
      access: 'user',
      tags,
      summary: 'Delete an agent',
      responses: { 204: { description: 'Gone.' } },
    }),
    (c) => c.body(null, 204),
  );
  for (const method of ['get', 'post'] as const) {
    router.openapi(
      route({
        method,
        path: '/users/{user}/agents/{agent}/stream',
        access: 'agent',
        tags,
        summary: 'Stream',
        responses: { 200: { description: 'Events.', content: { 'text/event-stream': { schema: z.string() } } } },
      }),
      (c) =>
        streamEvents(c, hooks.onStream ?? (async (sink) => void (await sink.send({ event: 'done', data: {} }))), {
          keepAliveMs: 50,
          stalledMs: 2_000,
        }),
    );
  }
  return router;
}

/** Routes of the installation, at the root, and one that fails. */
export function systemRoutes(): Router {
  const router = createRouter();
  const ok = { 200: { description: 'Fine.', content: { 'application/json': { schema: z.object({ status: z.string() }) } } } };
  router.openapi(
    route({ method: 'get', path: '/health', access: 'public', unlimited: true, tags, summary: 'Health', responses: ok }),
    (c) => c.json({ status: 'ok' }, 200),
  );
  router.openapi(route({ method: 'get', path: '/open', access: 'public', tags, summary: 'Public', responses: ok }), (c) =>
    c.json({ status: 'open' }, 200),
  );
  router.openapi(route({ method: 'get', path: '/api/v1/tiers', access: 'any', tags, summary: 'Tiers', responses: ok }), (c) =>
    c.json({ status: callerOf(c).kind }, 200),
  );
  router.openapi(route({ method: 'get', path: '/api/v1/users', access: 'admin', tags, summary: 'Users', responses: ok }), (c) =>
    c.json({ status: requestIdOf(c) }, 200),
  );
  router.openapi(
    route({
      method: 'post',
      path: '/api/v1/fail',
      access: 'any',
      tags,
      summary: 'Fail',
      bodyLimitBytes: 100,
      request: { body: { required: true, content: { 'application/json': { schema: z.object({ how: z.string() }) } } } },
      responses: ok,
    }),
    (c) => {
      const { how } = c.req.valid('json');
      if (how === 'throw') throw new Error('the secret cause');
      if (how === 'unavailable')
        throw new AppError('unavailable', 'the agent is not ready', { cause: new Error('the secret cause'), retryAfterS: 3 });
      if (how === 'conflict')
        throw new AppError('conflict', 'that name is taken', { cause: new Error('insert into "agents" (the secret cause)') });
      if (how === 'odd') throw 'a string';
      return c.json({ status: how }, 200);
    },
  );
  router.openapi(
    route({
      method: 'post',
      path: '/v1/chat/completions',
      access: 'any',
      tags,
      summary: 'Chat',
      request: { body: { required: true, content: { 'application/json': { schema: z.looseObject({ model: z.string() }) } } } },
      responses: ok,
    }),
    (c) => {
      throw new AppError('not_found', `the model ${c.req.valid('json').model.length} is not known`);
    },
  );
  return router;
}

export interface Toy {
  url: string;
  port: number;
  server: Server;
  edge: Edge;
  app: Router;
  /** Lines the edge logged, parsed. */
  logged: Record<string, unknown>[];
  get(path: string, init?: RequestInit & { key?: string }): Promise<Response>;
  post(path: string, body: unknown, init?: RequestInit & { key?: string }): Promise<Response>;
  close(): Promise<void>;
}

/** The toy app behind the edge, over real HTTP on a port of its own. */
export async function startToy(
  hooks: ToyHooks = {},
  options: Partial<EdgeOptions> = {},
  serverOptions: ServerOptions = {},
  more: (app: Router) => void = () => {},
): Promise<Toy> {
  const logged: Record<string, unknown>[] = [];
  const log = pino(
    { level: 'debug', base: undefined },
    { write: (line: string) => void logged.push(JSON.parse(line) as Record<string, unknown>) },
  );
  const app = createRouter();
  app.route('/api/v1', agentRoutes(hooks));
  app.route('/', systemRoutes());
  more(app);
  const edge = new Edge(app, {
    authenticator: { authenticate: (key) => Promise.resolve(CALLERS[key]) },
    directory: {
      resolve: (name) =>
        Promise.resolve([ADA, BOB].find((user) => user.userId === name || user.userName === name)).then(
          (user) => user && { id: user.userId },
        ),
    },
    log,
    config: { corsOrigins: [], trustedProxies: [] },
    limits: (caller) => (caller.kind === 'admin' ? undefined : 1000),
    ...options,
  });
  const server = createServer(
    { ...SERVER_OPTIONS, ...serverOptions },
    getRequestListener(edge.fetch, { errorHandler: edge.refuse }),
  );
  server.on('clientError', refuseBadHttp);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const url = `http://127.0.0.1:${port}`;
  const call = (path: string, { key, headers, ...init }: RequestInit & { key?: string } = {}) =>
    fetch(url + path, {
      ...init,
      headers: { ...(key === undefined ? {} : { 'X-API-Key': key }), ...(headers as Record<string, string>) },
    });
  return {
    url,
    port,
    server,
    edge,
    app,
    logged,
    get: call,
    post: (path, body, { headers, ...init } = {}) =>
      call(path, {
        method: 'POST',
        body: typeof body === 'string' ? body : JSON.stringify(body),
        ...init,
        headers: { 'Content-Type': 'application/json', ...(headers as Record<string, string>) },
      }),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** Waits until `ready` holds, looking every few milliseconds. */
export async function until(ready: () => boolean, what = 'the condition', timeoutMs = 5_000): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!ready()) {
    if (performance.now() > deadline) throw new Error(`${what} did not come true within ${timeoutMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** An error answer. */
export interface ErrorBody {
  error: string;
  detail: string;
  code: string;
  request_id: string;
  fields?: { path: string; message: string }[];
}

export const errorOf = async (response: Response) => [response.status, (await response.json()) as ErrorBody] as const;
