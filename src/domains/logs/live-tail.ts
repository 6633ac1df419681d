import { type FileHandle, readdir } from 'node:fs/promises';
import { messageOf } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import { type Found, Matcher, matches, type Place, type Position } from './scan.js';
import { blocksOn, openSegment, segmentPath, userFolder } from './segment-file.js';

export interface LiveTailOptions {
  place: Place;
  log: Log;
  /** Why no lines come; undefined once the user is gone. Asked now and then. */
  standing(): Promise<{ waiting: string | null } | undefined>;
}

/** How often the file is looked at without a word of its writer, which may be another process. */
const LOOK_EVERY_MS = 100;
const STANDING_EVERY_MS = 1_000;
/** What is kept in memory for followers that are not far behind; the others read the files. */
const KEPT_RECORDS = 2_000;
const KEPT_CHARS = 2_000_000;
const EVERYTHING = new Matcher({});

/** The end of one user's stream as it grows: read once a process, however many follow it. */
export class LiveTail {
  readonly #options: LiveTailOptions;
  readonly #timer: NodeJS.Timeout;
  readonly #waiters = new Set<() => void>();
  #file: FileHandle | undefined;
  /** Up to where the files have been read. */
  #end: Position;
  /** The last records, and from where on they are all. */
  #kept: Found[] = [];
  #keptFrom: Position;
  #keptChars = 0;
  #looking: Promise<void> | undefined;
  #lookAgain = false;
  #standing: { waiting: string | null } | undefined = { waiting: null };
  #standingMs = -Infinity;
  #listedMs = -Infinity;
  #isClosed = false;

  constructor(options: LiveTailOptions, end: Position) {
    this.#options = options;
    this.#end = end;
    this.#keptFrom = end;
    this.#timer = setInterval(() => this.look(), LOOK_EVERY_MS);
  }

  get end(): Position {
    return this.#end;
  }

  /** Why no lines come at the moment. */
  get waiting(): string | null {
    return this.#standing?.waiting ?? null;
  }

  get isOver(): boolean {
    return this.#standing === undefined;
  }

  /** Reads what has come. */
  look(): void {
    if (this.#looking) {
      this.#lookAgain = true;
      return;
    }
    this.#looking = this.#read()
      .catch((error: unknown) => this.#options.log.warn({ err: error }, `a stream of logs cannot be read: ${messageOf(error)}`))
      .finally(() => {
        this.#looking = undefined;
        if (this.#lookAgain && !this.#isClosed) {
          this.#lookAgain = false;
          this.look();
        }
      });
  }

  /** Whoever waits looks again. */
  wakeAll(): void {
    for (const wake of this.#waiters) wake();
  }

  /** The records after a place, as far as they are kept in memory; undefined where some of them are not. */
  after(place: Position): Found[] | undefined {
    if (isBefore(place, this.#keptFrom)) return undefined;
    let from = this.#kept.length;
    while (from > 0 && !isBefore(this.#kept[from - 1]!.at, place)) from--;
    return this.#kept.slice(from);
  }

  /** Resolves when something has changed, or the signal aborts. */
  change(signal: AbortSignal): Promise<void> {
    if (signal.aborted || this.#isClosed) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        signal.removeEventListener('abort', done);
        this.#waiters.delete(done);
        resolve();
      };
      signal.addEventListener('abort', done, { once: true });
      this.#waiters.add(done);
    });
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    clearInterval(this.#timer);
    this.wakeAll();
    await this.#looking;
    await this.#file?.close();
  }

  async #read(): Promise<void> {
    while (!this.#isClosed) {
      this.#file ??= await openSegment(this.#pathOf(this.#end.segment));
      if (this.#file) await this.#readFile(this.#file);
      // Looked for before the last look at this one: a segment is complete once there is one after it.
      const next = await this.#nextSegment();
      if (next === undefined) break;
      if (this.#file) await this.#readFile(this.#file);
      await this.#file?.close();
      this.#file = undefined;
      this.#end = { segment: next, offset: 0 };
    }
    await this.#lookWhyNot();
  }

  async #readFile(file: FileHandle): Promise<void> {
    const { segment, offset } = this.#end;
    const { size } = await file.stat();
    for await (const block of blocksOn(file, offset, size)) {
      for (const found of matches(block, segment, EVERYTHING)) this.#keep(found);
      this.#end = { segment, offset: block.start + block.bytes.length };
      this.wakeAll();
    }
  }

  #keep(found: Found): void {
    this.#kept.push(found);
    this.#keptChars += charsOf(found);
    if (this.#kept.length < 2 * KEPT_RECORDS && this.#keptChars < 2 * KEPT_CHARS) return;
    // In big steps: one shift a record would cost the square of it.
    let drop = 0;
    while (this.#kept.length - drop > KEPT_RECORDS || this.#keptChars > KEPT_CHARS)
      this.#keptChars -= charsOf(this.#kept[drop++]!);
    this.#keptFrom = this.#kept[drop - 1]!.next;
    this.#kept = this.#kept.slice(drop);
  }

  async #nextSegment(): Promise<number | undefined> {
    if (performance.now() - this.#listedMs < LOOK_EVERY_MS) return undefined;
    this.#listedMs = performance.now();
    const { dir, userId } = this.#options.place;
    const names = await readdir(userFolder(dir, userId)).catch(() => []);
    const numbers = names.map((name) => Number.parseInt(name, 10)).filter((number) => number > this.#end.segment);
    return numbers.length === 0 ? undefined : Math.min(...numbers);
  }

  async #lookWhyNot(): Promise<void> {
    if (performance.now() - this.#standingMs < STANDING_EVERY_MS) return;
    this.#standingMs = performance.now();
    this.#standing = await this.#options.standing();
    this.wakeAll();
  }

  #pathOf(segment: number): string {
    const { dir, userId } = this.#options.place;
    return segmentPath(dir, userId, segment);
  }
}

export function isBefore(a: Position, b: Position): boolean {
  return a.segment < b.segment || (a.segment === b.segment && a.offset < b.offset);
}

function charsOf({ record }: Found): number {
  return record.kind === 'line' ? record.message.length + 200 : 200;
}
