import { mkdir, open, type FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { decodeRecord, instanceKey, type StoredRecord } from './record.js';
import { Mark, type MarkValue } from './mark.js';

const NEWLINE = 10;
const FIRST_BLOCK_BYTES = 64 * 1024;
const BLOCK_BYTES = 1024 * 1024;
/** Longer than any record: what goes on beyond is none. */
const RECORD_LIMIT_BYTES = 512 * 1024;

/** Whole records, from `start` of the file on; the last byte is a newline. */
export interface Block {
  bytes: Buffer;
  start: number;
}

/** `<dir>/<user>/0000000001.log` */
export function segmentPath(dir: string, userId: string, number: number): string {
  return join(userFolder(dir, userId), `${String(number).padStart(10, '0')}.log`);
}

export function userFolder(dir: string, userId: string): string {
  if (!/^usr_[0-9a-z]{1,64}$/.test(userId)) throw new Error('not the id of a user');
  return join(dir, userId);
}

/** Opens a segment for reading; undefined where its file is not there. */
export async function openSegment(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/** The blocks of a file from `end` back to its beginning, the last one first. A record that has no end yet is left out. */
export async function* blocksBack(file: FileHandle, end: number): AsyncGenerator<Block, void, void> {
  /** The end of a record that begins further back. */
  let rest = Buffer.alloc(0);
  let isLast = true;
  for (let at = end, size = FIRST_BLOCK_BYTES; at > 0; size = Math.min(size * 2, BLOCK_BYTES)) {
    const from = Math.max(0, at - size);
    let bytes = await readFully(file, from, at - from);
    if (isLast) bytes = bytes.subarray(0, bytes.lastIndexOf(NEWLINE) + 1);
    else bytes = Buffer.concat([bytes, rest]);
    if (bytes.length > 0) isLast = false;
    const first = from === 0 ? 0 : bytes.indexOf(NEWLINE) + 1;
    rest = first <= RECORD_LIMIT_BYTES ? Buffer.from(bytes.subarray(0, first)) : Buffer.alloc(0);
    at = from;
    if (bytes.length > first) yield { bytes: bytes.subarray(first), start: from + first };
  }
}

/** Where the last whole record of a file ends. */
export async function endOfRecords(file: FileHandle): Promise<number> {
  for await (const { bytes, start } of blocksBack(file, (await file.stat()).size)) return start + bytes.length;
  return 0;
}

/** The blocks of a file from one place to another. Where `from` is inside of a record, that one is passed over. */
export async function* blocksOn(file: FileHandle, from: number, to: number): AsyncGenerator<Block, void, void> {
  let start = await beginningAt(file, from);
  while (start < to) {
    let bytes = await readFully(file, start, Math.min(BLOCK_BYTES, to - start));
    const end = bytes.lastIndexOf(NEWLINE) + 1;
    if (end === 0 && bytes.length < RECORD_LIMIT_BYTES) return;
    if (end > 0) yield { bytes: (bytes = bytes.subarray(0, end)), start };
    start += bytes.length;
  }
}

/** Each record's text of a block, in its order, with where it begins and where the next one does. */
export function* recordsOf({ bytes, start }: Block): Generator<{ text: string; at: number; next: number }, void, void> {
  for (let at = 0; at < bytes.length;) {
    const found = bytes.indexOf(NEWLINE, at);
    const end = found < 0 ? bytes.length : found;
    yield { text: bytes.toString('utf8', at, end), at: start + at, next: start + end + 1 };
    at = end + 1;
  }
}

async function beginningAt(file: FileHandle, from: number): Promise<number> {
  if (from === 0) return 0;
  const bytes = await readFully(file, from - 1, RECORD_LIMIT_BYTES);
  const newline = bytes.indexOf(NEWLINE);
  return newline < 0 ? from - 1 + bytes.length : from + newline;
}

async function readFully(file: FileHandle, from: number, count: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(count);
  let filled = 0;
  while (filled < count) {
    const { bytesRead } = await file.read(bytes, filled, count - filled, from + filled);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  return bytes.subarray(0, filled);
}

/** What is known of a segment's content. */
export interface SegmentStats {
  lines: number;
  gaps: number;
  /** RFC 3339; undefined while it has no line. */
  from: string | undefined;
  to: string | undefined;
}

export function noteRecord(stats: SegmentStats, record: StoredRecord): void {
  if (record.kind === 'marks') return;
  if (record.kind === 'line') stats.lines += 1;
  else stats.gaps += 1;
  const { time } = record;
  if (stats.from === undefined || time < stats.from) stats.from = time;
  const last = record.kind === 'gap' ? record.until : time;
  if (stats.to === undefined || last > stats.to) stats.to = last;
}

export interface Recovered extends SegmentStats {
  bytes: number;
  marks: Map<string, MarkValue>;
}

/**
 * Reads a segment that its writer left, as a killed process does: cuts a record off that was not written to its end, and says how far each instance
 * was read. Undefined where there is no file.
 */
export async function recoverSegment(path: string): Promise<Recovered | undefined> {
  const file = await openSegment(path);
  if (!file) return undefined;
  const recovered: Recovered = { bytes: 0, lines: 0, gaps: 0, from: undefined, to: undefined, marks: new Map() };
  try {
    const { size } = await file.stat();
    for await (const block of blocksOn(file, 0, size)) {
      for (const { text } of recordsOf(block)) takeIn(recovered, decodeRecord(text));
      recovered.bytes = block.start + block.bytes.length;
    }
    if (size > recovered.bytes) await truncate(path, recovered.bytes);
  } finally {
    await file.close();
  }
  return recovered;
}

function takeIn(recovered: Recovered, record: StoredRecord | undefined): void {
  if (!record) return;
  noteRecord(recovered, record);
  if (record.kind === 'marks') for (const [key, mark] of Object.entries(record.marks)) recovered.marks.set(key, mark);
  else if (record.kind === 'gap') recovered.marks.set(instanceKey(record), record.mark);
  else {
    const mark = new Mark(recovered.marks.get(instanceKey(record)));
    mark.note(record.time);
    recovered.marks.set(instanceKey(record), mark.value);
  }
}

async function truncate(path: string, bytes: number): Promise<void> {
  const file = await open(path, 'r+');
  try {
    await file.truncate(bytes);
  } finally {
    await file.close();
  }
}

/** Appends to one segment. What could not be written to its end is cut off again, so that a reader never meets half of it. */
export class SegmentWriter {
  readonly number: number;
  readonly stats: SegmentStats = { lines: 0, gaps: 0, from: undefined, to: undefined };
  readonly openedAtMs = performance.now();
  readonly #file: FileHandle;
  #bytes = 0;

  private constructor(file: FileHandle, number: number) {
    this.#file = file;
    this.number = number;
  }

  /** Makes the file; fails where there is one. */
  static async create(dir: string, userId: string, number: number): Promise<SegmentWriter> {
    const path = segmentPath(dir, userId, number);
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    return new SegmentWriter(await open(path, 'wx', 0o600), number);
  }

  get bytes(): number {
    return this.#bytes;
  }

  async append(bytes: Buffer): Promise<void> {
    try {
      for (let written = 0; written < bytes.length;) {
        const { bytesWritten } = await this.#file.write(bytes, written, bytes.length - written, this.#bytes + written);
        written += bytesWritten;
      }
    } catch (error) {
      await this.#file.truncate(this.#bytes);
      throw error;
    }
    this.#bytes += bytes.length;
  }

  /** Ends the file; it is on the disk then, also through a loss of power. */
  async close(): Promise<void> {
    try {
      await this.#file.datasync();
    } finally {
      await this.#file.close();
    }
  }
}
