import { open, stat, type FileHandle } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { join } from 'node:path';
import type { LogLine, LogOptions } from '../runtime.js';

const CHUNK_BYTES = 64 * 1024;
const FOLLOW_EVERY_MS = 50;
const NEWLINE = 10;

/** Reads one log file from where it last stopped. It keeps the file it opened, also when that is renamed. */
class FileReader {
  readonly #file: FileHandle;
  readonly inode: number;
  #offset = 0;
  #rest: Buffer = Buffer.alloc(0);

  private constructor(file: FileHandle, inode: number) {
    this.#file = file;
    this.inode = inode;
  }

  static async open(path: string): Promise<FileReader | undefined> {
    try {
      const file = await open(path, 'r');
      return new FileReader(file, (await file.stat()).ino);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw error;
    }
  }

  /** The complete lines added since the last call. */
  async *lines(): AsyncGenerator<LogLine[], void, void> {
    for (;;) {
      const { buffer, bytesRead } = await this.#file.read(Buffer.alloc(CHUNK_BYTES), 0, CHUNK_BYTES, this.#offset);
      if (bytesRead === 0) return;
      this.#offset += bytesRead;
      let bytes = Buffer.concat([this.#rest, buffer.subarray(0, bytesRead)]);
      const lines: LogLine[] = [];
      for (let end; (end = bytes.indexOf(NEWLINE)) >= 0; bytes = bytes.subarray(end + 1))
        lines.push(parse(bytes.toString('utf8', 0, end)));
      this.#rest = bytes;
      if (lines.length > 0) yield lines;
    }
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

function parse(line: string): LogLine {
  const stream = line.indexOf(' ');
  const text = line.indexOf(' ', stream + 1);
  return {
    time: line.slice(0, stream),
    stream: line.slice(stream + 1, text) === 'stderr' ? 'stderr' : 'stdout',
    text: line.slice(text + 1),
  };
}

/**
 * The lines that a shim wrote: `log.1`, then `log`, each line `<time> <stream> <text>`. When following, it goes on until
 * `lives` says no; what was written before that is still read.
 */
export async function* readLogFiles(
  folder: string,
  options: LogOptions,
  lives: () => boolean,
  signal: AbortSignal,
): AsyncGenerator<LogLine[], void, void> {
  const path = join(folder, 'log');
  let reader = await FileReader.open(path);
  try {
    const last = await lastLines(`${path}.1`, reader, options);
    if (signal.aborted) return;
    yield last.filter((line) => isSince(line, options));
    if (!options.follow) return;
    for (let more = true; more && !signal.aborted;) {
      // Asked before reading: what an instance wrote before it ended is there by then.
      more = lives();
      reader ??= await FileReader.open(path);
      if (reader) yield* select(reader.lines(), options, signal);
      const current = await inodeOf(path);
      if (reader && current !== undefined && current !== reader.inode) {
        // Renamed meanwhile, perhaps with lines not read yet.
        yield* select(reader.lines(), options, signal);
        await reader.close();
        reader = undefined;
        more = true;
      } else if (more) await sleep(FOLLOW_EVERY_MS, undefined, { signal }).catch(() => undefined);
    }
  } finally {
    await reader?.close();
  }
}

/** The last `tail` lines of both files; leaves `current` where they end. */
async function lastLines(olderPath: string, current: FileReader | undefined, options: LogOptions): Promise<LogLine[]> {
  const last: LogLine[] = [];
  const keep = async (reader: FileReader) => {
    for await (const lines of reader.lines()) {
      for (const line of lines) if (!options.stream || line.stream === options.stream) last.push(line);
      // Trimmed in big steps: one shift a line would cost the square of it.
      if (last.length > 2 * options.tail + 1000) last.splice(0, last.length - options.tail);
    }
  };
  const older = await FileReader.open(olderPath);
  try {
    // The same file under both names: renamed between the two looks.
    if (older && older.inode !== current?.inode) await keep(older);
  } finally {
    await older?.close();
  }
  if (current) await keep(current);
  return options.tail <= 0 ? [] : last.slice(-options.tail);
}

async function* select(
  batches: AsyncIterable<LogLine[]>,
  options: LogOptions,
  signal: AbortSignal,
): AsyncGenerator<LogLine[], void, void> {
  for await (const lines of batches) {
    if (signal.aborted) return;
    yield lines.filter((line) => (!options.stream || line.stream === options.stream) && isSince(line, options));
  }
}

function isSince(line: LogLine, options: LogOptions): boolean {
  return options.since === undefined || Date.parse(line.time) >= options.since;
}

async function inodeOf(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).ino;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}
