import type { Context, Next } from 'hono';
import type { Caller } from '../lib/caller.js';
import type { ErrorCode } from '../lib/errors.js';
import { ID_PREFIXES, isId } from '../lib/ids.js';
import type { Env, RequestState } from './request-state.js';

/** What somebody asks of Berth, as far as it is known before it is done. */
export interface Asked {
  requestId: string;
  /** Operation id of the route. */
  operation: string;
  /** Undefined: no valid key came with it. */
  caller: Caller | undefined;
  /** Whom it concerns. */
  userId: string | undefined;
  address: string;
  path: string;
  /** The id of the thing that the path names, where it names one by id. */
  resource: string | undefined;
  body?: Uint8Array | undefined;
  /** What GET of the same path answers at this moment, where there is such. */
  before?: Uint8Array | undefined;
}

/** What became of it. */
export interface Became {
  status: number;
  code: ErrorCode | 'client_gone' | undefined;
  /** Whom it concerned, and what, where only the answer says. */
  userId?: string | undefined;
  resource?: string | undefined;
  /** What GET answers now; of what was made, the answer. */
  after?: Uint8Array | undefined;
}

/** Keeps who asked for what, and what became of it. Digests are kept of bodies, never bodies. */
export interface AuditTrail {
  /** Resolves once it is on record that this is about to be done: what throws here is not done. The function says how it ended. */
  begin(asked: Asked): Promise<(became: Became) => void>;
  /** Something was refused by the edge. Does not wait: whoever is refused often is counted, and not written each time. */
  refused(asked: Asked, became: Became): void;
}

const REFUSALS: ReadonlySet<string> = new Set<ErrorCode>(['unauthorized', 'forbidden', 'rate_limited']);

/** Whether a request of that method changes something. */
export function isOfChange(method: string): boolean {
  return method === 'POST' || method === 'PUT' || method === 'PATCH' || method === 'DELETE';
}

export interface AuditedOptions {
  body: Uint8Array | undefined;
  /** Does not wait for the record of the beginning. */
  alongside: boolean;
}

/** Runs the rest of a request that changes something, between its two entries in the trail. */
export async function audited(c: Context<Env>, { body, alongside }: AuditedOptions, next: Next): Promise<void> {
  const { berth: state } = c.env;
  const { audit, look, log } = state.services;
  if (!audit) return next();
  const { method } = c.req;
  const before = method === 'POST' ? undefined : await look(state);
  const begun = audit.begin({ ...askedBy(state), body, before });
  if (!alongside) await begun;
  // Said at the end, where it failed.
  begun.catch(() => undefined);
  state.inTrail = true;
  const end = (became: Became) => {
    begun.then(
      (write) => write(became),
      (error: unknown) => log.error({ err: error, request_id: state.requestId }, `not on record: ${state.operation}`),
    );
  };
  try {
    await next();
  } catch (thrown) {
    end({ status: 500, code: 'internal' });
    throw thrown;
  }
  end(await becomeOf(c, method, before));
}

/** What the edge knows of a request. */
function askedBy(state: RequestState): Asked {
  return {
    requestId: state.requestId,
    operation: state.operation,
    caller: state.caller,
    userId: state.tenantId ?? (state.caller && 'userId' in state.caller ? state.caller.userId : undefined),
    address: state.ip,
    path: state.path,
    resource: idInPath(state.path),
  };
}

/** Whether a failed request was refused: for who asked, or how often, and not for what. An admin whose user is not there was not refused. */
export function wasRefused(state: RequestState): boolean {
  if (state.inTrail || !state.error) return false;
  const isHidden = state.refused && state.error.code === 'not_found' && state.caller?.kind !== 'admin';
  return isHidden || REFUSALS.has(state.error.code);
}

/** What was refused: it names nothing but in its path, since what it was about may be another's. */
export function refusedIn(state: RequestState): Asked {
  return { ...askedBy(state), resource: undefined };
}

async function becomeOf(c: Context<Env>, method: string, before: Uint8Array | undefined): Promise<Became> {
  const { berth: state } = c.env;
  const { streamed, error } = state;
  const status = streamed?.status ?? c.res.status;
  const said: Became = { status, code: streamed?.broken ? 'client_gone' : error?.code, userId: state.tenantId };
  if (streamed || status >= 400) return said;
  const answer = await jsonOf(c.res);
  const after = method === 'POST' ? answer : await state.services.look(state);
  return { ...said, after, resource: idIn(answer) ?? idIn(after ?? before) };
}

async function jsonOf(response: Response): Promise<Uint8Array | undefined> {
  if (!response.headers.get('content-type')?.includes('json')) return undefined;
  return new Uint8Array(await response.clone().arrayBuffer());
}

/** The `id` of a thing in JSON, if it is one of Berth's. */
function idIn(json: Uint8Array | undefined): string | undefined {
  if (!json) return undefined;
  try {
    const { id } = JSON.parse(Buffer.from(json).toString('utf8')) as { id?: unknown };
    return typeof id === 'string' && isAnyId(id) ? id : undefined;
  } catch {
    // Not an object, or not JSON after all: then it names nothing.
    return undefined;
  }
}

/** The last id in a path, which is what the request is about. */
function idInPath(path: string): string | undefined {
  return path.split('/').findLast(isAnyId);
}

function isAnyId(text: string): boolean {
  return text.length === 30 && ID_PREFIXES.some((prefix) => isId(prefix, text));
}
