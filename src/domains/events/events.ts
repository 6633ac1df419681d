import { createHash, randomBytes } from 'node:crypto';
import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { AppError } from '../../lib/errors.js';
import { joinSignals } from '../../lib/joined-signal.js';
import type { Log } from '../../lib/log.js';
import type { ApiKeys } from '../api-keys/api-keys.js';
import { AllEvents } from './all-events.js';
import type { AllReader } from './all-feed.js';
import { invalidCursor } from './cursor.js';
import { cursorOf, eventAnswer, type EventAnswer, gapAnswer, type GapAnswer } from './events.schema.js';
import * as store from './events.store.js';
import { Feed, type FeedOptions, type Reader } from './feed.js';
import { KeyWatch } from './key-watch.js';

export interface EventsOptions {
  db: Kysely<Schema>;
  bus: Bus;
  log: Log;
  keys: Pick<ApiKeys, 'living'>;
  /** Events are forgotten after so many days. */
  retentionDays: number;
  feed?: Pick<FeedOptions, 'pollMs' | 'readersAtMost'> | undefined;
  /** A stream whose client takes nothing for so long is ended. */
  slowMs?: number | undefined;
}

export interface EventsWish {
  type?: string[] | undefined;
  agent?: string | undefined;
  order?: 'asc' | 'desc' | undefined;
  cursor?: string | undefined;
  offset?: number | undefined;
  limit?: number | undefined;
}

export interface EventsAnswer {
  data: EventAnswer[];
  pagination: { next_cursor: string | null; has_more: boolean; total: null };
  gap: GapAnswer | null;
}

/** Who reads a stream: its user, the place it goes on after, and the key that it ends with. */
export interface Audience {
  userId: string;
  keyId: string;
  after: number | undefined;
}

const TICKET_S = 30;
const PRUNED_AT_ONCE = 5_000;
const SLOW_MS = 30_000;

/** What happened to a user's things: in pages, as it happens, and forgotten with age. */
export class Events {
  readonly slowMs: number;
  readonly #db: Kysely<Schema>;
  readonly #retentionDays: number;
  readonly #feed: Feed;
  readonly #keys: KeyWatch;
  /** Those of all users, for admins. */
  readonly all: AllEvents;

  constructor({ db, bus, log, keys, retentionDays, feed, slowMs }: EventsOptions) {
    this.#db = db;
    this.#retentionDays = retentionDays;
    this.#feed = new Feed({ db, bus, log, ...feed });
    this.all = new AllEvents({ db, bus, log, feed });
    this.#keys = new KeyWatch({ bus, log, living: (ids) => keys.living(ids) });
    this.slowMs = slowMs ?? SLOW_MS;
  }

  start(): void {
    this.#feed.start();
    this.all.start();
    this.#keys.start();
  }

  /** Ends all streams, so that their clients go on with another process. */
  close(): void {
    this.#feed.close();
  }

  async stop(): Promise<void> {
    await Promise.all([this.#feed.stop(), this.all.stop(), this.#keys.stop()]);
  }

  async list(userId: string, wish: EventsWish): Promise<EventsAnswer> {
    const after = seqOf(wish.cursor);
    const page = { after, descending: wish.order === 'desc', offset: wish.offset ?? 0, limit: wish.limit ?? 50 };
    const filter = { types: wish.type ?? [], agentId: await this.agentId(userId, wish.agent) };
    const rows = await store.listEvents(this.#db, userId, filter, page);
    const data = rows.slice(0, page.limit).map(eventAnswer);
    const more = rows.length > page.limit;
    return {
      data,
      pagination: { next_cursor: more ? (data.at(-1)?.cursor ?? null) : null, has_more: more, total: null },
      gap: after === undefined || page.descending ? null : await this.#gapAfter(userId, after),
    };
  }

  /** The id of an agent named by id or name; events outlive their agent, so an id may be of one that is gone. */
  async agentId(userId: string, agent: string | undefined): Promise<string | undefined> {
    if (agent === undefined || agent.startsWith('agt_')) return agent;
    const found = await store.findAgent(this.#db, userId, agent);
    if (found === undefined) throw new AppError('not_found', 'agent not found');
    return found;
  }

  /** Gives a reader to `use`, whose signal aborts with the given one, when the key ends, and when this process does. */
  follow(
    { userId, keyId, after }: Audience,
    signal: AbortSignal,
    use: (reader: Reader, signal: AbortSignal) => Promise<void>,
  ): Promise<void> {
    return this.#attend(keyId, signal, () => this.#feed.open(userId, after), use);
  }

  /** The same of all users' events. */
  followAll(
    { keyId, cursor }: { keyId: string; cursor: string | undefined },
    signal: AbortSignal,
    use: (reader: AllReader, signal: AbortSignal) => Promise<void>,
  ): Promise<void> {
    return this.#attend(keyId, signal, () => this.all.open(cursor), use);
  }

  async #attend<R extends { close(): void }>(
    keyId: string,
    signal: AbortSignal,
    open: () => Promise<R>,
    use: (reader: R, signal: AbortSignal) => Promise<void>,
  ): Promise<void> {
    const dead = new AbortController();
    const unwatch = this.#keys.watch(keyId, () => dead.abort(new AppError('unauthorized', 'the API key is not valid any more')));
    const joined = joinSignals(signal, dead.signal, this.#feed.ending);
    try {
      const reader = await open();
      try {
        await use(reader, joined.signal);
      } finally {
        reader.close();
      }
    } finally {
      joined.release();
      unwatch();
    }
  }

  // ---- tickets -------------------------------------------------------------------------------------------------------------

  /** Opens one WebSocket within half a minute, in place of the key: for clients that can send no header. */
  async issueTicket(userId: string, keyId: string): Promise<{ ticket: string; expires_at: string }> {
    const ticket = randomBytes(32).toString('base64url');
    const row = await store.insertTicket(this.#db, userId, { digest: digestOf(ticket), keyId, seconds: TICKET_S });
    return { ticket, expires_at: row.expires_at.toISOString() };
  }

  async takeTicket(ticket: string): Promise<{ userId: string; keyId: string } | undefined> {
    const row = await store.takeTicketAcrossTenants(this.#db, digestOf(ticket));
    return row && { userId: row.user_id, keyId: row.key_id };
  }

  // ---- the end -------------------------------------------------------------------------------------------------------------

  /** Forgets what is older than it is to be kept, in short transactions. */
  async prune(signal: AbortSignal): Promise<void> {
    await store.pruneTicketsAcrossTenants(this.#db);
    while (!signal.aborted) {
      const gone = await store.pruneEventsAcrossTenants(this.#db, this.#retentionDays, PRUNED_AT_ONCE);
      if (gone < PRUNED_AT_ONCE) return;
    }
  }

  /** Part of the user's deletion. */
  erase(trx: Transaction<Schema>, userId: string): Promise<void> {
    return store.eraseTickets(trx, userId);
  }

  async #gapAfter(userId: string, after: number): Promise<GapAnswer | null> {
    const head = await store.readHead(this.#db, userId);
    if (after > head) return gapAnswer({ from: head + 1, to: after, ahead: true });
    const oldest = (await store.readOldest(this.#db, userId)) ?? head + 1;
    return oldest > after + 1 ? gapAnswer({ from: after + 1, to: oldest - 1, ahead: false }) : null;
  }
}

/** The number in a cursor, wherever it came from: a list, a stream or a WebSocket. */
export function seqOf(cursor: string | undefined): number | undefined {
  if (cursor === undefined || cursor === '') return undefined;
  const [, seq] = /^e(\d{1,15})$/.exec(Buffer.from(cursor, 'base64url').toString('utf8')) ?? [];
  if (seq !== undefined && cursorOf(Number(seq)) === cursor) return Number(seq);
  throw invalidCursor();
}

function digestOf(ticket: string): string {
  return createHash('sha256').update(ticket).digest('hex');
}
