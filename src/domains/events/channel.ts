import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { readEvents, type StoredEvent } from '../../events/outbox.js';
import { messageOf } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';

/** Events kept for readers that are nearly up to date; the others read from the database. */
const KEPT = 500;
const PAGE = 200;

/** The last events of one user, read once for all of its readers in this process. */
export class Channel {
  readonly userId: string;
  readonly #db: Kysely<Schema>;
  readonly #log: Log;
  readonly #waiting = new Set<() => void>();
  /** In order, without gaps, up to `head`. */
  #recent: StoredEvent[] = [];
  #started = false;
  #reading = false;
  #news = false;
  readers = 0;
  /** The number of the last event that was read. */
  head = 0;
  /** The user is gone. */
  ended = false;

  constructor(db: Kysely<Schema>, userId: string, log: Log) {
    this.#db = db;
    this.userId = userId;
    this.#log = log;
  }

  /** What happened up to there is read from the database by whoever wants it, unless the channel has it. */
  startAt(head: number): void {
    if (!this.#started) this.head = head;
    this.#started = true;
    if (this.#news || head > this.head) this.refresh();
  }

  /** Reads what is new; called while it reads, it reads again. */
  refresh(): void {
    this.#news = true;
    if (this.#started && !this.#reading) void this.#readAll();
  }

  end(): void {
    this.ended = true;
    this.#wake();
  }

  /** What came after a number; undefined where the channel does not go back so far. */
  after(seq: number, atMost: number): StoredEvent[] | undefined {
    const first = this.#recent[0];
    if (!first || seq < first.seq - 1) return undefined;
    const at = seq - first.seq + 1;
    return this.#recent.slice(at, at + atMost);
  }

  /** Resolves when there is something after that number, or the channel has ended, or the signal aborts. */
  wait(seq: number, signal: AbortSignal): Promise<void> {
    if (this.head > seq || this.ended || signal.aborted) return Promise.resolve();
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

  async #readAll(): Promise<void> {
    this.#reading = true;
    try {
      while (this.#news) {
        this.#news = false;
        const events = await readEvents(this.#db, this.userId, this.head, PAGE);
        if (events.length === PAGE) this.#news = true;
        this.#add(events);
      }
    } catch (error) {
      // The poll comes back to it.
      this.#log.warn({ err: error, user: this.userId }, `events cannot be read: ${messageOf(error)}`);
    } finally {
      this.#reading = false;
    }
  }

  #add(events: StoredEvent[]): void {
    const last = events.at(-1);
    if (!last) return;
    // After a gap, nothing of what was before it belongs to what comes.
    if (events[0]?.seq !== this.head + 1) this.#recent = [];
    this.#recent.push(...contiguous(events));
    if (this.#recent.length > 2 * KEPT) this.#recent = this.#recent.slice(-KEPT);
    this.head = last.seq;
    this.#wake();
  }

  #wake(): void {
    for (const wake of this.#waiting) wake();
  }
}

/** The events after the last gap among them. */
function contiguous(events: StoredEvent[]): StoredEvent[] {
  const gapAt = events.findLastIndex((event, at) => at > 0 && event.seq !== (events[at - 1]?.seq ?? 0) + 1);
  return gapAt === -1 ? events : events.slice(gapAt);
}
