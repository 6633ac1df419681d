import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { messageOf } from '../../lib/errors.js';
import { insist } from '../../lib/insist.js';
import type { Log } from '../../lib/log.js';
import { type EventsRow, insertEventsAcrossTenants } from './turn-writer.store.js';

/** What a turn has to be written down. */
export interface Writer {
  /** Takes all that waits as one row; undefined where nothing does. */
  take(): EventsRow | undefined;
  /** What was taken is in the database. */
  written(row: EventsRow): void;
}

/** From the first event that waits to its write. A client sees it before: what is not written yet can be had from the instance again. */
const EVERY_MS = 50;
const ROWS_AT_ONCE = 100;

/** Writes down what all kept turns of this process say: all that has gathered in 50 ms in one statement, however many turns run. */
export class Journal {
  readonly #db: Kysely<Schema>;
  readonly #log: Log;
  #waiting = new Set<Writer>();
  #timer: NodeJS.Timeout | undefined;
  #writing: Promise<void> = Promise.resolve();
  #isDue = false;
  readonly #stop = new AbortController();

  constructor({ db, log }: { db: Kysely<Schema>; log: Log }) {
    this.#db = db;
    this.#log = log;
  }

  /** Something waits to be written; soon, where it is much. */
  add(writer: Writer, isMuch: boolean): void {
    this.#waiting.add(writer);
    if (isMuch && !this.#isDue) this.flush().catch(ignore);
    else this.#timer ??= setTimeout(() => this.flush().catch(ignore), EVERY_MS);
  }

  /** Writes what waits by now. A database that is away is waited for: turns hold themselves back meanwhile. */
  flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#isDue) return this.#writing;
    this.#isDue = true;
    this.#writing = this.#writing.then(() => this.#writeAll());
    return this.#writing;
  }

  /** Writes what waits, once: what cannot be written now is had from the instance by whoever takes the turns over. */
  async stop(): Promise<void> {
    this.#stop.abort(new Error('Berth stops'));
    await this.flush().catch(ignore);
  }

  async #writeAll(): Promise<void> {
    this.#isDue = false;
    const writers = [...this.#waiting];
    this.#waiting = new Set();
    for (let at = 0; at < writers.length; at += ROWS_AT_ONCE) {
      const taken = writers.slice(at, at + ROWS_AT_ONCE).flatMap((writer) => {
        const row = writer.take();
        return row ? [{ writer, row }] : [];
      });
      if (taken.length === 0) continue;
      await this.#write(taken.map(({ row }) => row));
      for (const { writer, row } of taken) writer.written(row);
    }
  }

  #write(rows: EventsRow[]): Promise<void> {
    return insist(
      () => insertEventsAcrossTenants(this.#db, rows),
      (error) => this.#log.error({ err: error }, `what turns said could not be written down: ${messageOf(error)}`),
      this.#stop.signal,
    );
  }
}

/** It was logged, and happens only as Berth stops. */
function ignore(): void {}
