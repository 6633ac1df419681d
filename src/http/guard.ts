import type { Context, MiddlewareHandler, Next } from 'hono';
import type { Caller } from '../lib/caller.js';
import { AppError, type FieldError } from '../lib/errors.js';
import { audited, isOfChange } from './audit.js';
import { authenticate, credentialOf, headerOf } from './authenticate.js';
import { type Access, authorize } from './authorize.js';
import { type BodyRule, readBody } from './body.js';
import { answerOnce } from './idempotency.js';
import { endsWithSlash, isPlainPath, paramProblems, endsInRest } from './path.js';
import { type Allowance, tooManyRequests } from './rate-limit.js';
import type { Env, RequestState } from './request-state.js';
import { allowTime } from './request-stream.js';

/** All that is declared beside a route and checked before its handler. */
export interface GuardRule {
  access: Access;
  body: BodyRule;
  /** Not counted by any limit and not logged at info: health checks. */
  unlimited: boolean;
  operation: string;
  /** Its handler waits for others, so it is not called without need. */
  waits: boolean;
  /** Its beginning is put on record while it runs, not before. */
  alongside: boolean;
  /** The handler sees to `Idempotency-Key` itself. */
  seesToOnce: boolean;
}

const guards = new WeakMap<object, GuardRule>();

/** The rule of a function that was made by `guard`: the edge refuses to start with a route that has none. */
export function ruleOf(handler: object): GuardRule | undefined {
  return guards.get(handler);
}

/** The one middleware of a route, before its validators: who calls, may they, how often, and is the body fit to be looked at. */
export function guard(rule: GuardRule): MiddlewareHandler<Env> {
  const handler = async (c: Context<Env>, next: Next): Promise<Response | void> => {
    const state = c.env.berth;
    if (state.isInner) return next();
    state.refused = true;
    state.quiet = rule.unlimited;
    state.route = c.req.routePath;
    state.operation = rule.operation;
    checkText(c, state);
    await admit(c, state, rule);
    const wantsOnce = c.req.method === 'POST' && state.caller !== undefined && headerOf(c, 'idempotency-key') !== undefined;
    if (rule.body.streams) allowTime(c);
    const bytes =
      !rule.body.streams && (rule.body.mediaTypes.length > 0 || wantsOnce)
        ? await readBody(c, rule.body, state.services.bodyLimitBytes)
        : undefined;
    state.refused = false;
    const run =
      isOfChange(c.req.method) && rule.access !== 'public'
        ? () => audited(c, { body: bytes, alongside: rule.alongside }, next)
        : next;
    if (wantsOnce && !rule.seesToOnce) return answerOnce(c, bytes, run);
    return run();
  };
  guards.set(handler, rule);
  return handler;
}

async function admit(c: Context<Env>, state: RequestState, rule: GuardRule): Promise<void> {
  const { services } = state;
  if (rule.access === 'public') {
    if (!rule.unlimited) count(state, await services.rateLimits.ofAddress(state.ip));
    return;
  }
  const caller = await callerFrom(c, state);
  state.caller = caller;
  const allowance = await services.rateLimits.ofCaller(caller);
  if (allowance) count(state, allowance);
  const params = c.req.param() as Record<string, string>;
  const claim = {
    access: rule.access,
    caller,
    user: params['user'],
    agent: params['agent'],
    workspace: headerOf(c, 'x-workspace-id'),
  };
  state.tenantId = await authorize(claim, services.directory);
}

async function callerFrom(c: Context<Env>, state: RequestState): Promise<Caller> {
  const key = credentialOf(c);
  if (key !== undefined) return callerOfKey(state, key);
  count(state, await state.services.rateLimits.ofAddress(state.ip));
  throw new AppError('unauthorized', 'no API key: send X-API-Key or Authorization: Bearer');
}

/**
 * For routes that take a key in other ways than a header: who presents it, and the user it acts for. `user` is what an admin names. The same
 * refusals and limits as everywhere.
 */
export async function admitByKey(
  state: RequestState,
  key: string,
  { user, workspace }: { user: string; workspace: string | undefined },
): Promise<{ caller: Caller; userId: string }> {
  const { rateLimits, directory } = state.services;
  const caller = await callerOfKey(state, key);
  const allowance = await rateLimits.ofCaller(caller);
  if (allowance) count(state, allowance);
  const userId = await authorize({ access: 'any', caller, user, agent: undefined, workspace }, directory);
  if (userId === undefined) throw new AppError('internal', 'a key that acts for nobody was let in');
  state.caller = caller;
  return { caller, userId };
}

/** For routes that name no user: whom the request is for, by its key, `user` and X-Workspace-ID; undefined for an admin that names nobody in the header. */
export async function actsFor(c: Context<Env>, user: string | undefined): Promise<string | undefined> {
  const { caller, services } = c.env.berth;
  if (!caller) throw new AppError('internal', 'a public route asks whom its caller acts for');
  const workspace = headerOf(c, 'x-workspace-id');
  if (caller.kind === 'admin' && workspace === undefined) return undefined;
  const claim = { access: 'any', caller, user: user ?? 'me', agent: undefined, workspace } as const;
  const userId = await authorize(claim, services.directory);
  // What is kept of the request goes with that user.
  c.env.berth.tenantId = userId;
  return userId;
}

async function callerOfKey(state: RequestState, key: string): Promise<Caller> {
  const { rateLimits, authenticator } = state.services;
  if (rateLimits.hasFailures && (await rateLimits.isBarred(state.ip))) count(state, await rateLimits.ofFailure(state.ip));
  const caller = await authenticate(authenticator, key);
  if (caller) return caller;
  count(state, await rateLimits.ofFailure(state.ip));
  throw new AppError('unauthorized', 'the API key is not valid');
}

function count(state: RequestState, allowance: Allowance): void {
  state.setHeader('RateLimit-Limit', String(allowance.limit));
  state.setHeader('RateLimit-Remaining', String(allowance.remaining));
  state.setHeader('RateLimit-Reset', String(allowance.resetS));
  if (!allowance.allowed) throw tooManyRequests(allowance);
}

/**
 * Refuses path and query text that must not reach a handler, by the name of the parameter. A slash at the end is what clients make of `..`: of
 * `…/agents/a/files/..`, `…/agents/a/`. Taken as the agent's own path, it would have the agent deleted in place of a file.
 */
function checkText(c: Context<Env>, state: RequestState): void {
  const fields: FieldError[] = isPlainPath(state.path) ? [] : paramProblems(state.path, state.route);
  const { url } = c.req;
  const queryAt = url.indexOf('?');
  if (queryAt !== -1 && url.includes('%', queryAt)) fields.push(...queryProblems(url.slice(queryAt + 1)));
  if (isOfNamed(c.req.method) && !endsInRest(state.route) && endsWithSlash(c.env.incoming?.url ?? url)) {
    fields.push({ path: 'path', message: 'must not have a slash at its end: to change something, it is named exactly' });
  }
  if (fields.length > 0) throw new AppError('invalid_request', 'invalid request', { fields });
}

/** Not POST, which makes things in a list: a slash after a list's name leads nowhere else. */
function isOfNamed(method: string): boolean {
  return method === 'DELETE' || method === 'PUT' || method === 'PATCH';
}

function queryProblems(query: string): FieldError[] {
  return query.split('&').flatMap((pair) => {
    const [name = '', value = ''] = pair.split('=', 2);
    try {
      if (!decodeURIComponent(name + value).includes('\0')) return [];
      return [{ path: `query.${name.slice(0, 64)}`, message: 'must not contain NUL' }];
    } catch (error) {
      if (!(error instanceof URIError)) throw error;
      return [{ path: `query.${name.slice(0, 64)}`, message: 'is not percent-encoded UTF-8' }];
    }
  });
}
