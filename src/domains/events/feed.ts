import { setMaxListeners } from 'node:events';
import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { readEvents, type StoredEvent } from '../../events/outbox.js';
import { AppError } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import { Loop } from '../../lib/loop.js';
import { Channel } from './channel.js';
import { cursorOf } from './events.schema.js';
import * as store from './events.store.js';

export interface FeedOptions {
  db: Kysely<Schema>;
  bus: Bus;
  log: Log;
  /** How soon events are found of which no word came: their process died before it could say one. */
  pollMs?: number | undefined;
  /** Readers of one user in this process. */
  readersAtMost?: number | undefined;
}

/** Numbers that a reader asked for and that are not there any more. */
export interface Gap {
  from: number;
  to: number;
  /** The place was ahead of all that happened. */
  ahead: boolean;
}

/** What a reader gets next: what it missed, if it did, then what happened. */
export interface Batch {
  gap?: Gap;
  events: StoredEvent[];
}

const PAGE = 200;

/**
 * Brings events to their readers as they are committed. All readers of a user share one channel, which reads each event from the database
 * once; a reader holds a place and nothing else, so one that is slow keeps no event in memory and nobody waiting.
 */
export class Feed {
  readonly #options: FeedOptions;
  readonly #channels = new Map<string, Channel>();
  readonly #poll: Loop;
  readonly #stop = new AbortController();
  #unsubscribe: (() => void)[] = [];

  constructor(options: FeedOptions) {
    this.#options = options;
    setMaxListeners(0, this.#stop.signal);
    const job = { name: 'poll for events', everyMs: options.pollMs ?? 1_000, run: () => this.#lookForMissed() };
    this.#poll = new Loop(job, options.log);
  }

  start(): void {
    const { bus } = this.#options;
    this.#unsubscribe = [
      bus.subscribe('event', (userId) => this.#channels.get(userId)?.refresh()),
      bus.subscribe('user', (userId) => {
        if (this.#channels.has(userId)) this.#poll.wake();
      }),
    ];
    this.#poll.start();
  }

  /** Ends every reader: what they wait for comes from another process. */
  close(): void {
    this.#stop.abort(new AppError('unavailable', 'this Berth process is ending: connect again', { retryAfterS: 1 }));
  }

  async stop(): Promise<void> {
    this.close();
    for (const end of this.#unsubscribe) end();
    await this.#poll.stop();
  }

  /** Aborts when this process ends. */
  get ending(): AbortSignal {
    return this.#stop.signal;
  }

  /** A reader of what comes after a number, or of what comes from now on. To be closed. */
  async open(userId: string, after: number | undefined): Promise<Reader> {
    this.#stop.signal.throwIfAborted();
    const channel = this.#join(userId);
    try {
      // Not what the channel has: it may be a moment behind, and ahead of nobody.
      const head = await store.readHead(this.#options.db, userId);
      channel.startAt(head);
      return new Reader(this.#options.db, channel, after ?? head, head, () => this.#leave(channel));
    } catch (error) {
      this.#leave(channel);
      throw error;
    }
  }

  #join(userId: string): Channel {
    const { db, log, readersAtMost = 1_000 } = this.#options;
    const channel = this.#channels.get(userId) ?? new Channel(db, userId, log);
    if (channel.readers >= readersAtMost) {
      throw new AppError('rate_limited', `more than ${readersAtMost} streams of events at once`, { retryAfterS: 10 });
    }
    this.#channels.set(userId, channel);
    channel.readers += 1;
    return channel;
  }

  #leave(channel: Channel): void {
    channel.readers -= 1;
    if (channel.readers === 0) this.#channels.delete(channel.userId);
  }

  async #lookForMissed(): Promise<void> {
    // Those of now: what is opened while the database answers is not in its answer, and not gone for that.
    const channels = [...this.#channels.values()];
    if (channels.length === 0) return;
    const userIds = channels.map(({ userId }) => userId);
    const heads = await store.readHeadsAcrossTenants(this.#options.db, userIds);
    for (const channel of channels) {
      const head = heads.get(channel.userId);
      if (head === undefined) channel.end();
      else if (head > channel.head) channel.refresh();
    }
  }
}

/** One reader's place among a user's events. */
export class Reader {
  readonly #db: Kysely<Schema>;
  readonly #channel: Channel;
  readonly #head: number;
  #close: (() => void) | undefined;
  /** The last number that was handed out. */
  position: number;

  constructor(db: Kysely<Schema>, channel: Channel, position: number, head: number, close: () => void) {
    this.#db = db;
    this.#channel = channel;
    this.position = position;
    this.#head = head;
    this.#close = close;
  }

  get cursor(): string {
    return cursorOf(this.position);
  }

  close(): void {
    this.#close?.();
    this.#close = undefined;
  }

  /** Waits for events after the place; throws the signal's reason, or `not_found` once the user is gone. */
  async next(signal: AbortSignal): Promise<Batch> {
    for (;;) {
      signal.throwIfAborted();
      if (this.position > Math.max(this.#head, this.#channel.head)) return this.#rewind();
      if (this.position < this.#channel.head) {
        const batch = await this.#read();
        if (batch) return batch;
      }
      if (this.#channel.ended) throw new AppError('not_found', 'user not found');
      await this.#channel.wait(this.position, signal);
    }
  }

  async #read(): Promise<Batch | undefined> {
    const { head, userId } = this.#channel;
    const found = this.#channel.after(this.position, PAGE) ?? (await readEvents(this.#db, userId, this.position, PAGE));
    const events = found.slice(0, holeIn(found));
    const [first] = events;
    const before = this.position;
    // Numbers have no gaps but where events were forgotten, which takes the oldest.
    const missedTo = first ? first.seq - 1 : head;
    this.position = events.at(-1)?.seq ?? head;
    if (missedTo <= before) return { events };
    return { gap: { from: before + 1, to: missedTo, ahead: false }, events };
  }

  /** A place ahead of all that happened is of another database, or of one put back from a backup: what it is to follow is not known. */
  #rewind(): Batch {
    const gap = { from: this.#channel.head + 1, to: this.position, ahead: true };
    this.position = this.#channel.head;
    return { gap, events: [] };
  }
}

/** Where the numbers do not count on, if anywhere. */
function holeIn(events: StoredEvent[]): number | undefined {
  const at = events.findIndex((event, i) => i > 0 && event.seq !== (events[i - 1]?.seq ?? 0) + 1);
  return at === -1 ? undefined : at;
}
