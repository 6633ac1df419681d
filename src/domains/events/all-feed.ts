import { setTimeout as sleep } from 'node:timers/promises';
import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { AppError, messageOf } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import { Loop } from '../../lib/loop.js';
import * as store from './all-events.store.js';
import { beforeAllOf, comparePlaces, compareXids, nextXid, type Place, placeCursor } from './place.js';

export interface AllFeedOptions {
  db: Kysely<Schema>;
  bus: Bus;
  log: Log;
  pollMs?: number | undefined;
  readersAtMost?: number | undefined;
}

/** What a reader missed: events that were forgotten with age, or all up to a place that is ahead of everything. */
export interface AllGap {
  ahead: boolean;
  /** Where to go on. */
  place: Place;
}

const PAGE = 200;
const KEPT = 500;
/** How soon it is looked again whether the transactions have ended that events wait for. */
const BEHIND_MS = [2, 5, 10, 20, 50, 100];

/**
 * Brings the events of all users to their readers, in the order of the transactions that wrote them: each is read once for all readers of this
 * process, and no sooner than every transaction before it has ended, so that none can come in before what was told. It reads nothing while
 * there is no reader.
 */
export class AllFeed {
  readonly #options: AllFeedOptions;
  readonly #poll: Loop;
  readonly #waiting = new Set<() => void>();
  #unsubscribe: (() => void) | undefined;
  /** All that came after `#since`, up to `head`. */
  #recent: store.OwnedEvent[] = [];
  #since = beforeAllOf('0');
  #readers = 0;
  #reading: Promise<void> | undefined;
  #news = false;
  head = beforeAllOf('0');

  constructor(options: AllFeedOptions) {
    this.#options = options;
    const job = { name: 'poll for events of all users', everyMs: options.pollMs ?? 1_000, run: async () => this.#refresh() };
    this.#poll = new Loop(job, options.log);
  }

  start(): void {
    this.#unsubscribe = this.#options.bus.subscribe('event', () => this.#refresh());
    this.#poll.start();
  }

  async stop(): Promise<void> {
    this.#unsubscribe?.();
    await this.#poll.stop();
    await this.#reading;
  }

  /** A reader of what comes after a place, or from now on. To be closed. */
  async open(after: Place | undefined): Promise<AllReader> {
    const { db, readersAtMost = 1_000 } = this.#options;
    if (this.#readers >= readersAtMost)
      throw new AppError('rate_limited', `more than ${readersAtMost} streams of all events at once`, { retryAfterS: 10 });
    this.#readers += 1;
    try {
      const edge = await store.readEdgeAcrossTenants(db);
      const now = beforeAllOf(edge.xid);
      if (comparePlaces(this.head, now) < 0 && this.#readers === 1) this.#restartAt(now);
      this.#refresh();
      return new AllReader(db, this, after ?? now, gapAfter(after, edge), () => (this.#readers -= 1));
    } catch (error) {
      this.#readers -= 1;
      throw error;
    }
  }

  /** What came after a place, up to the head; undefined where that is further back than is kept. */
  after(place: Place, atMost: number): store.OwnedEvent[] | undefined {
    if (comparePlaces(place, this.#since) < 0) return undefined;
    const before = this.#recent.findLastIndex((event) => comparePlaces(event, place) <= 0);
    return this.#recent.slice(before + 1, before + 1 + atMost);
  }

  /** Resolves when there is something after that place, or the signal aborts. */
  wait(place: Place, signal: AbortSignal): Promise<void> {
    if (comparePlaces(place, this.head) < 0 || signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        this.#waiting.delete(done);
        signal.removeEventListener('abort', done);
        resolve();
      };
      this.#waiting.add(done);
      signal.addEventListener('abort', done, { once: true });
    });
  }

  #restartAt(place: Place): void {
    [this.#recent, this.#since, this.head] = [[], place, place];
  }

  #refresh(): void {
    this.#news = true;
    if (this.#readers > 0) this.#reading ??= this.#readAll().finally(() => (this.#reading = undefined));
  }

  async #readAll(): Promise<void> {
    try {
      for (let behind = 0; this.#news && this.#readers > 0;) {
        this.#news = false;
        const isBehind = await this.#read();
        behind = isBehind ? behind + 1 : 0;
        if (!isBehind) continue;
        this.#news = true;
        await sleep(BEHIND_MS[Math.min(behind, BEHIND_MS.length) - 1]);
      }
    } catch (error) {
      // The poll comes back to it.
      this.#options.log.warn({ err: error }, `events of all users cannot be read: ${messageOf(error)}`);
    }
  }

  /** Answers whether something was written that has to wait for a transaction before it. */
  async #read(): Promise<boolean> {
    const { db } = this.#options;
    const { xid, isBehind } = await store.readEdgeAcrossTenants(db);
    const events = await store.readAllAcrossTenants(db, this.head, xid, PAGE);
    const last = events.at(-1);
    const isAll = events.length < PAGE;
    if (!isAll) this.#news = true;
    this.#recent.push(...events);
    this.head = isAll || !last ? beforeAllOf(xid) : placeOf(last);
    const dropped = this.#recent.length > 2 * KEPT ? this.#recent.splice(0, this.#recent.length - KEPT).at(-1) : undefined;
    if (dropped) this.#since = dropped;
    if (last) for (const wake of this.#waiting) wake();
    return isBehind;
  }
}

/** One reader's place among the events of all users. */
export class AllReader {
  readonly #db: Kysely<Schema>;
  readonly #feed: AllFeed;
  #gap: AllGap | undefined;
  #close: (() => void) | undefined;
  #place: Place;

  constructor(db: Kysely<Schema>, feed: AllFeed, place: Place, gap: AllGap | undefined, close: () => void) {
    this.#db = db;
    this.#feed = feed;
    this.#place = gap?.place ?? place;
    this.#gap = gap;
    this.#close = close;
  }

  get cursor(): string {
    return placeCursor(this.#place);
  }

  close(): void {
    this.#close?.();
    this.#close = undefined;
  }

  /** Waits for events after the place; throws the signal's reason. */
  async next(signal: AbortSignal): Promise<{ gap?: AllGap; events: store.OwnedEvent[] }> {
    for (;;) {
      signal.throwIfAborted();
      const gap = this.#gap;
      this.#gap = undefined;
      if (gap) return { gap, events: [] };
      const { head } = this.#feed;
      if (comparePlaces(this.#place, head) >= 0) await this.#feed.wait(this.#place, signal);
      else {
        const events = await this.#read(head);
        if (events.length > 0) return { events };
      }
    }
  }

  async #read(head: Place): Promise<store.OwnedEvent[]> {
    const kept = this.#feed.after(this.#place, PAGE);
    // The transaction of an event that was told has ended, so that all of it is there.
    const before = head.userId === '' ? head.xid : nextXid(head.xid);
    const events = kept ?? (await store.readAllAcrossTenants(this.#db, this.#place, before, PAGE));
    const last = events.at(-1);
    if (events.length === PAGE && last) this.#place = placeOf(last);
    else this.#place = kept ? head : beforeAllOf(before);
    return events;
  }
}

function placeOf({ xid, userId, seq }: Place): Place {
  return { xid, userId, seq };
}

/** What somebody has missed who was told all up to that place. */
export function gapAfter(
  place: Place | undefined,
  { xid, forgotten }: { xid: string; forgotten: string | null },
): AllGap | undefined {
  if (place === undefined) return undefined;
  // Of another database, or of one put back from a backup: what it is to follow is not known.
  if (comparePlaces(place, beforeAllOf(xid)) > 0) return { ahead: true, place: beforeAllOf(xid) };
  if (forgotten === null || compareXids(place.xid, forgotten) >= 0) return undefined;
  return { ahead: false, place };
}
