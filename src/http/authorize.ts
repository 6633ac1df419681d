import type { Caller } from '../lib/caller.js';
import { AppError } from '../lib/errors.js';

/**
 * Who may call a route, declared beside it.
 * - `public`: anybody, without a key.
 * - `any`: every valid key; what it may see is the handler's business.
 * - `admin`: admin keys; 403 for all others.
 * - `user`: the user of the path by a user key, or an admin key; agent keys of that user get 403.
 * - `agent`: the agent of the path by its own key, its user's key, or an admin key.
 * Somebody else's user or agent is answered as one that never was: 404.
 */
export type Access = 'public' | 'any' | 'admin' | 'user' | 'agent';

/** Finds a user by id or name. Asked for admin keys only; other keys carry the user's names. */
export interface UserDirectory {
  resolve(idOrName: string): Promise<{ id: string } | undefined>;
}

/** What of a request decides whether it is allowed. */
export interface Claim {
  access: Exclude<Access, 'public'>;
  caller: Caller;
  /** The `{user}` of the path, undefined where the route has none. */
  user: string | undefined;
  agent: string | undefined;
  /** `X-Workspace-ID`: the user an admin key acts for where the path says `me` or names none. */
  workspace: string | undefined;
}

/** Returns the id of the user of the path (undefined where the route names no user), or throws 403 or 404. */
export async function authorize(claim: Claim, directory: UserDirectory): Promise<string | undefined> {
  if (claim.access === 'admin' && claim.caller.kind !== 'admin') throw new AppError('forbidden', 'this needs an admin key');
  if (claim.user === undefined) return undefined;
  const { caller } = claim;
  if (caller.kind === 'admin') return tenantOfAdmin(claim.user, claim.workspace, directory);
  if (!isOwn(caller, claim.user) || (claim.workspace !== undefined && !isOwn(caller, claim.workspace))) {
    throw new AppError('not_found', 'user not found');
  }
  if (caller.kind === 'agent') checkAgentKey(claim, caller);
  return caller.userId;
}

function isOwn(caller: Exclude<Caller, { kind: 'admin' }>, user: string): boolean {
  return user === 'me' || user === caller.userId || user === caller.userName;
}

function checkAgentKey(claim: Claim, caller: Extract<Caller, { kind: 'agent' }>): void {
  if (claim.access === 'user')
    throw new AppError('forbidden', "this needs the user's key; an agent key opens its own agent only");
  if (claim.access !== 'agent') return;
  if (claim.agent !== caller.agentId && claim.agent !== caller.agentName) throw new AppError('not_found', 'agent not found');
}

async function tenantOfAdmin(user: string, workspace: string | undefined, directory: UserDirectory): Promise<string> {
  const named = user === 'me' ? workspace : user;
  if (named === undefined) {
    throw new AppError('invalid_request', 'an admin key has no user of its own: name one in the path or in X-Workspace-ID', {
      fields: [{ path: 'header.X-Workspace-ID', message: 'is required for an admin key where the path names no user' }],
    });
  }
  const found = await directory.resolve(named);
  if (!found) throw new AppError('not_found', 'user not found');
  return found.id;
}
