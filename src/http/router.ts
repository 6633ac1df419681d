import { createRoute, OpenAPIHono, type RouteConfig, type RouteHandler, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import type { Caller, Change } from '../lib/caller.js';
import { AppError } from '../lib/errors.js';
import type { Access } from './authorize.js';
import { guard } from './guard.js';
import type { Env } from './request-state.js';
import { validationError } from './validate.js';

declare const guarded: unique symbol;

/** A route that went through `route()`: only such may be given to a router. */
export interface Guarded {
  readonly [guarded]: true;
  [extension: `x-${string}`]: unknown;
}

/** What a route may say: everything of OpenAPI's operation, and who may call it. */
export type RouteSpec<P extends string> = Omit<RouteConfig, 'path' | 'middleware' | 'security'> & {
  path: P;
  access: Access;
  /** Largest body; 1 MB unless told. */
  bodyLimitBytes?: number;
  /** The handler takes the body as it comes (`bodyStreamOf`): of any size and any media type. For PUT. */
  streamsBody?: true;
  /** No rate limit and no line in the log: for health checks. Public routes only. */
  unlimited?: true;
  /** That it has begun is put on record while its handler runs, not before: for turns, which have a row of their own before anything is done. */
  recordedAlongside?: true;
  /** The handler sees to `Idempotency-Key` itself (`onceOf`). */
  seesToOnce?: true;
  /** The handler waits for an instance or for the container engine, so it may answer 502, 503 and 504. */
  waits?: true;
};

/** Hono's OpenAPI router, narrowed: it takes guarded routes and other such routers, and its type does not grow with each route. */
export interface Router {
  openapi<R extends RouteConfig & Guarded>(route: R, handler: RouteHandler<R, Env>): Router;
  route(path: string, router: Router): Router;
  /** Every handler there is, middlewares included. */
  readonly routes: readonly { method: string; path: string }[];
}

export function createRouter(): Router {
  return new OpenAPIHono<Env>({
    defaultHook: (result) => {
      if (!result.success) throw validationError(result.target, result.error);
    },
  }) as unknown as Router;
}

/** The body of a failed answer, for routes that declare one of their own. */
export const ErrorAnswer = z
  .object({
    error: z.string(),
    detail: z.string(),
    code: z.string(),
    request_id: z.string(),
    fields: z.array(z.object({ path: z.string(), message: z.string() })).optional(),
  })
  .openapi('Error');

const OpenAiErrorAnswer = z
  .object({
    error: z.object({ message: z.string(), type: z.string(), code: z.string().nullable(), param: z.string().nullable() }),
  })
  .openapi('OpenAIError');

const PARAMS: Record<string, string> = {
  user: "The user's id or name; `me` is the caller's own.",
  agent: "The agent's id or name.",
};

/**
 * Declares a route. What all routes share is added here: the guard, the errors it may answer, an operation id made of method and
 * path, and a description of the path's parameters.
 */
export function route<P extends string, R extends RouteSpec<P>>(spec: R): R & Guarded {
  const { access, bodyLimitBytes, streamsBody, unlimited, waits, recordedAlongside, seesToOnce, ...operation } = spec;
  checkSpec(spec);
  const body = operation.request?.body;
  const operationId = operation.operationId ?? operationIdOf(spec.method, spec.path);
  const rule = {
    access,
    body: { limitBytes: bodyLimitBytes, mediaTypes: Object.keys(body?.content ?? {}), streams: streamsBody ?? false },
    unlimited: unlimited ?? false,
    operation: operationId,
    waits: waits ?? false,
    alongside: recordedAlongside ?? false,
    seesToOnce: seesToOnce ?? false,
  };
  const config = {
    ...operation,
    operationId,
    'x-access': access,
    security: access === 'public' ? [] : [{ apiKey: [] }, { bearer: [] }],
    parameters: [...(operation.parameters ?? []), ...undescribedParams(spec), ...workspaceHeader(spec), ...onceHeader(spec)],
    responses: { ...errorResponses(spec), ...operation.responses },
    middleware: [guard(rule)],
  };
  return createRoute(config as never);
}

function checkSpec(spec: RouteSpec<string>): void {
  const where = `${spec.method.toUpperCase()} ${spec.path}`;
  if (spec.access === 'user' && !spec.path.includes('{user}'))
    throw new Error(`${where}: access "user" needs {user} in the path`);
  if (spec.access === 'agent' && !(spec.path.includes('{user}') && spec.path.includes('{agent}'))) {
    throw new Error(`${where}: access "agent" needs {user} and {agent} in the path`);
  }
  if (spec.access === 'public' && spec.path.includes('{user}')) throw new Error(`${where}: a public route names no user`);
  if (spec.streamsBody && spec.method !== 'put') throw new Error(`${where}: only PUT streams its body`);
  if (spec.unlimited && spec.access !== 'public') throw new Error(`${where}: only a public route may be unlimited`);
}

function operationIdOf(method: string, path: string): string {
  const words = path
    .split('/')
    .filter(Boolean)
    .map((part) => {
      const param = /^\{(\w+)\}/.exec(part)?.[1];
      return param ? `by-${param}` : part;
    });
  return [method, ...words].join('-').replace(/[^A-Za-z0-9]+([A-Za-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

function paramsOf(path: string): string[] {
  return [...path.matchAll(/\{(\w+)\}/g)].map((match) => match[1]!);
}

/** Parameters of the path that the route's own schema leaves out: documented here, checked by the guard, free of a validator's cost. */
function undescribedParams(spec: RouteSpec<string>) {
  const described = spec.request?.params && 'shape' in spec.request.params ? Object.keys(spec.request.params.shape) : [];
  return paramsOf(spec.path)
    .filter((name) => !described.includes(name))
    .map((name) => ({
      name,
      in: 'path' as const,
      required: true,
      schema: { type: 'string' as const },
      ...(PARAMS[name] && { description: PARAMS[name] }),
    }));
}

function workspaceHeader(spec: RouteSpec<string>) {
  if (!spec.path.includes('{user}')) return [];
  return [
    {
      name: 'X-Workspace-ID',
      in: 'header' as const,
      required: false,
      schema: { type: 'string' as const },
      description:
        'With an admin key: id or name of the user meant where `{user}` is `me` or the path names none. A user or agent key may name its own user only.',
    },
  ];
}

function onceHeader(spec: RouteSpec<string>) {
  if (spec.method !== 'post' || spec.access === 'public') return [];
  return [
    {
      name: 'Idempotency-Key',
      in: 'header' as const,
      required: false,
      schema: { type: 'string' as const, maxLength: 255 },
      description: 'Repeating a request with the same key and body within 24 hours gives the first answer again.',
    },
  ];
}

function errorResponses(spec: RouteSpec<string>): Record<number, unknown> {
  const schema = spec.path.startsWith('/v1/') ? OpenAiErrorAnswer : ErrorAnswer;
  const all: [number, string, boolean][] = [
    [400, 'The request is not valid; `fields` says where.', true],
    [401, 'No key, or one that is unknown, revoked or expired.', spec.access !== 'public'],
    [403, 'The key may not do this.', ['admin', 'user'].includes(spec.access)],
    [404, 'No such thing, or none that this key may know of.', spec.path.includes('{')],
    [409, 'A request with the same Idempotency-Key is still running, or the state of things forbids it.', spec.method === 'post'],
    [413, 'The body is too large.', spec.request?.body !== undefined],
    [415, 'The body is of another media type.', spec.request?.body !== undefined && !spec.streamsBody],
    [422, 'The Idempotency-Key was used with another body.', spec.method === 'post' && spec.access !== 'public'],
    [429, 'Too many requests; `Retry-After` says when to try again.', !spec.unlimited],
    [500, 'Berth failed; the log has the cause under the request id.', true],
    [502, 'The agent, its model or the container engine failed.', spec.waits ?? false],
    [
      503,
      'Something this needs is away, busy or not ready yet; `Retry-After` may say when to try again.',
      spec.access !== 'public',
    ],
    [504, 'The agent, its model or the container engine did not answer in time.', spec.waits ?? false],
  ];
  return Object.fromEntries(
    all
      .filter(([, , applies]) => applies)
      .map(([status, description]) => [status, { description, content: { 'application/json': { schema } } }]),
  );
}

/** Who makes the call. Not for public routes: nobody asked them for a key. */
export function callerOf(c: Context<Env>): Caller {
  const { caller, route: pattern } = c.env.berth;
  if (!caller) throw new AppError('internal', `${pattern} has no caller: its access is public`);
  return caller;
}

/** The id of the user in the path, resolved, and open to the caller. */
export function tenantOf(c: Context<Env>): string {
  const { tenantId, route: pattern } = c.env.berth;
  if (tenantId === undefined) throw new AppError('internal', `${pattern} has no {user} in its path`);
  return tenantId;
}

/** Says whom the request concerns where its path does not: what is kept of it goes with that user. */
export function concerns(c: Context<Env>, userId: string): void {
  c.env.berth.tenantId ??= userId;
}

export function requestIdOf(c: Context<Env>): string {
  return c.env.berth.requestId;
}

export function changeOf(c: Context<Env>): Change {
  return { caller: callerOf(c), requestId: requestIdOf(c) };
}
