import { rm } from 'node:fs/promises';
import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { AppError, messageOf } from '../../lib/errors.js';
import type { LogLimits } from './limits.js';
import type { MarkValue } from './mark.js';
import { encodeRecord, instanceKey, type ShownRecord } from './record.js';
import { noteRecord, recoverSegment, segmentPath, SegmentWriter } from './segment-file.js';
import type { Place } from './scan.js';
import * as store from './logs.store.js';

interface Pending {
  record: ShownRecord;
  text: string;
  mark: MarkValue;
}

export interface StreamWriterOptions {
  db: Kysely<Schema>;
  place: Place;
  lease: store.StreamLease;
  /** What was there when the lease was taken. */
  left: readonly store.LeftSegment[];
  /** By the monotonic clock: after that another process may have the lease. */
  heldUntilMs: number;
  limits: LogLimits;
  onWritten(): void;
  onSealed(): void;
  /** What waited to be written is forgotten: it has to be read again, from the marks on. */
  onFailed(error: unknown): void;
}

/**
 * Writes one user's stream, for as long as its lease is held: records that come while a write is under way go together in the next one. What is in
 * the file is what has been read of an instance; the marks say how far that is.
 */
export class StreamWriter {
  readonly #options: StreamWriterOptions;
  readonly #marks = new Map<string, MarkValue>();
  #heldUntilMs: number;
  #segment: SegmentWriter | undefined;
  /** A number that was given out and not used yet, as where the disk is full. */
  #spareNumber: number | undefined;
  #pending: Pending[] = [];
  #pendingChars = 0;
  #flushing: Promise<void> | undefined;
  #busy: Promise<void> | undefined;
  #attempt = 0;

  private constructor(options: StreamWriterOptions) {
    this.#options = options;
    this.#heldUntilMs = options.heldUntilMs;
  }

  /** Takes the stream over as whoever had it before left it: what is torn is cut off, and what was left open is sealed. */
  static async open(options: StreamWriterOptions): Promise<StreamWriter> {
    const writer = new StreamWriter(options);
    const { db, place, left } = options;
    for (const { number, is_sealed: isSealed } of left) {
      const recovered = await recoverSegment(segmentPath(place.dir, place.userId, number));
      if (!recovered) await store.deleteSegment(db, place.userId, number);
      else if (!isSealed) await store.noteSegment(db, place.userId, number, recovered, true);
      for (const [key, mark] of recovered?.marks ?? []) writer.#marks.set(key, mark);
    }
    return writer;
  }

  get isHeld(): boolean {
    return performance.now() < this.#heldUntilMs;
  }

  /** The lease was renewed. */
  hold(untilMs: number): void {
    this.#heldUntilMs = untilMs;
  }

  /** Rises when something could not be written. Whoever read under an earlier one reads again. */
  get attempt(): number {
    return this.#attempt;
  }

  /** How far an instance has been read: what is written, and no more. */
  markOf(key: string): MarkValue {
    return this.#marks.get(key) ?? ['', 0];
  }

  /** All others are of instances that are no more. */
  keepMarks(keys: ReadonlySet<string>): void {
    for (const key of this.#marks.keys()) if (!keys.has(key)) this.#marks.delete(key);
  }

  /** Takes a record in that was read under that attempt. To be awaited where it returns a promise: then more waits than may. */
  add(record: ShownRecord, mark: MarkValue, attempt: number): Promise<void> | undefined {
    if (attempt !== this.#attempt) throw new AppError('unavailable', 'what was read before could not be written');
    const text = encodeRecord(record);
    this.#pending.push({ record, text, mark });
    this.#pendingChars += text.length;
    const flushed = this.settle();
    return this.#pendingChars >= this.#options.limits.pendingBytes ? flushed : undefined;
  }

  /** Resolves once all that was taken in is written, or forgotten. */
  settle(): Promise<void> {
    if (this.#pending.length === 0) return this.#flushing ?? Promise.resolve();
    return (this.#flushing ??= this.#alone(() => this.#writeAll()));
  }

  /** Writes down how much there is; at the end of a segment's time, seals it. */
  note(): Promise<void> {
    return this.#alone(async () => {
      const segment = this.#segment;
      if (!segment || !this.isHeld) return;
      if (performance.now() - segment.openedAtMs > this.#options.limits.segmentAgeMs) await this.#seal();
      else await this.#noteSegment(segment, false);
    });
  }

  /** Writes what waits, and seals. */
  async close(): Promise<void> {
    await this.settle();
    await this.#alone(() => this.#seal());
    const { db, place } = this.#options;
    if (this.#spareNumber !== undefined) await store.deleteSegment(db, place.userId, this.#spareNumber);
  }

  async #alone(work: () => Promise<void>): Promise<void> {
    while (this.#busy) await this.#busy.catch(() => undefined);
    this.#busy = work().finally(() => (this.#busy = undefined));
    return this.#busy;
  }

  async #writeAll(): Promise<void> {
    try {
      while (this.#pending.length > 0) await this.#write(this.#take());
    } catch (error) {
      this.#take();
      this.#attempt += 1;
      this.#options.onFailed(error);
    } finally {
      this.#flushing = undefined;
    }
  }

  #take(): Pending[] {
    const taken = this.#pending;
    this.#pending = [];
    this.#pendingChars = 0;
    return taken;
  }

  async #write(batch: Pending[]): Promise<void> {
    if (!this.isHeld) throw new AppError('conflict', 'another process may have this stream');
    if (this.#segment && this.#segment.bytes >= this.#options.limits.segmentBytes) await this.#seal();
    const segment = (this.#segment ??= await this.#openSegment());
    await segment.append(Buffer.from(batch.map(({ text }) => text).join('')));
    for (const { record, mark } of batch) {
      noteRecord(segment.stats, record);
      this.#marks.set(instanceKey(record), mark);
    }
    this.#options.onWritten();
  }

  async #openSegment(): Promise<SegmentWriter> {
    const { db, place, lease } = this.#options;
    const number = (this.#spareNumber ??= await store.openSegmentRow(db, place.userId, lease));
    if (number === undefined) throw new AppError('conflict', 'another process has this stream');
    const segment = await SegmentWriter.create(place.dir, place.userId, number);
    try {
      await segment.append(Buffer.from(encodeRecord({ kind: 'marks', marks: Object.fromEntries(this.#marks) })));
    } catch (error) {
      await rm(segmentPath(place.dir, place.userId, number), { force: true });
      await segment.close();
      throw error;
    }
    this.#spareNumber = undefined;
    return segment;
  }

  async #seal(): Promise<void> {
    const segment = this.#segment;
    if (!segment) return;
    this.#segment = undefined;
    await segment.close();
    // Of one whose lease has gone, whoever has it now finds out by itself what is in it.
    if (this.isHeld) await this.#noteSegment(segment, true);
    this.#options.onSealed();
  }

  async #noteSegment({ number, bytes, stats }: SegmentWriter, isSealed: boolean): Promise<void> {
    await store.noteSegment(this.#options.db, this.#options.place.userId, number, { bytes, ...stats }, isSealed);
  }
}

/** Why something could not be written, as readers are told. */
export function whyNotWritten(error: unknown): string {
  const code = (error as NodeJS.ErrnoException).code;
  if (code === 'ENOSPC' || code === 'EDQUOT') return 'the disk that logs are written to is full';
  return `logs cannot be written: ${error instanceof AppError ? messageOf(error) : (code ?? 'see the log of Berth')}`;
}
