import type { Context } from 'hono';
import type { Caller } from '../lib/caller.js';
import { AppError } from '../lib/errors.js';
import type { Env } from './request-state.js';

/** Says whose key it is; undefined for one that is unknown, revoked or expired. The domain of API keys is one. */
export interface Authenticator {
  authenticate(key: string): Promise<Caller | undefined>;
}

/** Longer than any key Berth makes; nothing longer is worth a look at the database. */
const MAX_KEY_LENGTH = 512;

/** The key a request carries: `X-API-Key`, or `Authorization: Bearer`. Undefined where it carries none. */
export function credentialOf(c: Context<Env>): string | undefined {
  const fromHeader = headerOf(c, 'x-api-key') || undefined;
  const fromBearer = bearerOf(headerOf(c, 'authorization'));
  if (fromHeader !== undefined && fromBearer !== undefined && fromHeader !== fromBearer) {
    throw new AppError('invalid_request', 'X-API-Key and Authorization carry different keys: send one');
  }
  return fromHeader ?? fromBearer;
}

/** The caller of the request, or undefined where its key is no living key. */
export async function authenticate(authenticator: Authenticator, key: string): Promise<Caller | undefined> {
  return key.length > MAX_KEY_LENGTH ? undefined : authenticator.authenticate(key);
}

export function headerOf(c: Context<Env>, name: string): string | undefined {
  const { incoming } = c.env;
  if (!incoming) return c.req.header(name);
  const value = incoming.headers[name];
  return Array.isArray(value) ? value.join(', ') : value;
}

function bearerOf(header: string | undefined): string | undefined {
  if (header === undefined || !/^bearer /i.test(header)) return undefined;
  return header.slice(7).trim() || undefined;
}
