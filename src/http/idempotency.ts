import { createHash, randomUUID } from 'node:crypto';
import type { Context, Next } from 'hono';
import { actorOf, type Caller } from '../lib/caller.js';
import { AppError, messageOf, wrongField } from '../lib/errors.js';
import { headerOf } from './authenticate.js';
import type { Env, StreamCopy } from './request-state.js';

const MAX_KEY_LENGTH = 255;
const MAX_ANSWER_BYTES = 1_000_000;
const RENEW_MS = 20_000;
const KEPT_HEADERS = ['content-type', 'location', 'etag', 'content-disposition'];

/** A request as the store knows it. The client's key and body are digests: neither is kept. */
export interface IdempotencyEntry {
  /** The credential: two keys of one user do not share. */
  caller: string;
  /** Whom the request concerns; null where only its answer will say, or nobody. */
  userId: string | null;
  /** With the user that an admin key acts for: a path may name none, and a name may be another user's tomorrow. */
  route: string;
  keyDigest: string;
  bodyDigest: string;
  /** This run of it; a run whose lease another took over can no longer settle the entry. */
  attempt: string;
}

export interface KeptAnswer {
  status: number;
  headers: Record<string, string>;
  body: Buffer;
}

export type Begun = 'new' | { status: 'running' } | { status: 'mismatch' } | { status: 'done'; answer: KeptAnswer | undefined };

/** Remembers which requests were carried out, for 24 hours. */
export interface IdempotencyStore {
  /** Claims the entry for a minute, or says why not. An entry whose claim ran out (its process died) is claimed anew. */
  begin(entry: IdempotencyEntry): Promise<Begun>;
  /** Makes the claim last another minute. */
  renew(entry: IdempotencyEntry): Promise<void>;
  /** Keeps the answer, as long as its user is there; undefined = it was carried out, but its answer is too large to keep. */
  finish(entry: IdempotencyEntry, answer: KeptAnswer | undefined, userId?: string): Promise<void>;
  /** Forgets the entry: the request has done nothing that may not be done again. */
  abandon(entry: IdempotencyEntry): Promise<void>;
}

/** Runs the rest of the request, or gives the answer of its first run. */
export async function answerOnce(c: Context<Env>, body: Buffer | undefined, next: Next): Promise<Response | void> {
  const { services, caller } = c.env.berth;
  const store = services.idempotency;
  if (!store || !caller) return next();
  const entry = entryOf(c, caller, body);
  const begun = await store.begin(entry);
  if (begun !== 'new') return replay(begun);
  const copy = new Copy();
  c.env.berth.streamCopy = copy;
  const renewing = setInterval(() => void store.renew(entry).catch((error: unknown) => warn(c, 'renew', error)), RENEW_MS);
  try {
    await next();
  } finally {
    clearInterval(renewing);
  }
  await settle(c, store, entry, copy);
}

/**
 * What names a request with an `Idempotency-Key` and what it says, both as digests, for a handler that sees to it itself; undefined where it has no
 * key. Two credentials do not share a key, nor do two routes.
 */
export function onceOf(c: Context<Env>): { key: string; body: string } | undefined {
  const { caller, bodyText } = c.env.berth;
  if (!caller || headerOf(c, 'idempotency-key') === undefined) return undefined;
  const entry = entryOf(c, caller, Buffer.from(bodyText ?? ''));
  const key = createHash('sha256').update(`${entry.caller}\n${entry.route}\n${entry.keyDigest}`).digest('hex');
  return { key, body: entry.bodyDigest };
}

function entryOf(c: Context<Env>, caller: Caller, body: Buffer | undefined): IdempotencyEntry {
  const key = headerOf(c, 'idempotency-key') ?? '';
  if (!/^[\x20-\x7e]+$/.test(key) || key.length > MAX_KEY_LENGTH) {
    throw wrongField('header.Idempotency-Key', `must be 1 to ${MAX_KEY_LENGTH} printable ASCII characters`);
  }
  const { url } = c.req;
  const { path, tenantId } = c.env.berth;
  const query = url.includes('?') ? url.slice(url.indexOf('?')) : '';
  const digest = createHash('sha256').update(`${headerOf(c, 'content-type') ?? ''}\n${query}\n`);
  return {
    caller: actorOf(caller),
    userId: caller.kind === 'admin' ? (tenantId ?? null) : caller.userId,
    route: caller.kind === 'admin' && tenantId !== undefined ? `POST ${path} of ${tenantId}` : `POST ${path}`,
    keyDigest: createHash('sha256').update(key).digest('hex'),
    bodyDigest: digest.update(body ?? '').digest('hex'),
    attempt: randomUUID(),
  };
}

function replay(begun: Exclude<Begun, 'new'>): Response {
  if (begun.status === 'running')
    throw new AppError('conflict', 'the request with this Idempotency-Key is still running', { retryAfterS: 1 });
  if (begun.status === 'mismatch') throw new AppError('unprocessable', 'this Idempotency-Key was used with another request body');
  if (!begun.answer)
    throw new AppError('conflict', 'the request with this Idempotency-Key was carried out; its answer was too large to keep');
  const { status, headers, body } = begun.answer;
  return new Response(status === 204 ? null : new Uint8Array(body), {
    status,
    headers: { ...headers, 'Idempotency-Replayed': 'true' },
  });
}

/** Keeps what was carried out. Refused requests (400, 408, 429) and failures (5xx) may be tried again with the same key. */
async function settle(c: Context<Env>, store: IdempotencyStore, entry: IdempotencyEntry, copy: Copy): Promise<void> {
  try {
    const { streamed, tenantId } = c.env.berth;
    if (streamed && copy.completed) return await store.finish(entry, copy.answer(streamed.status, streamed.headers), tenantId);
    if (streamed || [400, 408, 429].includes(c.res.status) || c.res.status >= 500) return await store.abandon(entry);
    await store.finish(entry, await answerIn(c, copy), tenantId);
  } catch (error) {
    warn(c, 'settle', error);
  }
}

async function answerIn(c: Context<Env>, copy: Copy): Promise<KeptAnswer | undefined> {
  const { status, headers } = c.res;
  const bytes = new Uint8Array(await c.res.arrayBuffer());
  copy.add(bytes);
  const all = Object.fromEntries(headers);
  c.res = undefined;
  c.res = new Response(bytes.length > 0 ? bytes : null, { status, headers: all });
  return copy.answer(
    status,
    Object.fromEntries(KEPT_HEADERS.flatMap((name) => (all[name] === undefined ? [] : [[name, all[name]]]))),
  );
}

function warn(c: Context<Env>, what: string, error: unknown): void {
  c.env.berth.services.log.error(
    { request_id: c.env.berth.requestId, err: error },
    `idempotency: could not ${what}: ${messageOf(error)}`,
  );
}

/** What went to the client, up to a cap. */
class Copy implements StreamCopy {
  completed = false;
  #size = 0;
  #chunks: (string | Uint8Array)[] = [];

  add(chunk: string | Uint8Array): void {
    this.#size += chunk.length;
    if (this.#size <= MAX_ANSWER_BYTES) this.#chunks.push(chunk);
    else this.#chunks = [];
  }

  complete(): void {
    this.completed = true;
  }

  answer(status: number, headers: Record<string, string>): KeptAnswer | undefined {
    if (this.#size > MAX_ANSWER_BYTES) return undefined;
    return { status, headers, body: Buffer.concat(this.#chunks.map((chunk) => Buffer.from(chunk as Uint8Array))) };
  }
}
