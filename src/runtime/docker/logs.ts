import type { Readable } from 'node:stream';
import { withDeadline } from '../../lib/deadline.js';
import type { LogLine, LogOptions } from '../runtime.js';
import { explain } from './faults.js';
import { FrameLines } from './frames.js';

/**
 * The engine's query for log options. `tail` always goes with it: `since` alone makes the engine read the whole log from its
 * beginning.
 */
export function logQuery(options: LogOptions): Record<string, string | boolean> {
  const query: Record<string, string | boolean> = {
    follow: options.follow,
    stdout: options.stream !== 'stderr',
    stderr: options.stream !== 'stdout',
    timestamps: true,
    tail: String(Math.max(0, Math.trunc(options.tail))),
  };
  if (options.since !== undefined) query['since'] = engineTime(options.since);
  return query;
}

/** Milliseconds since the epoch as the engine's `seconds.nanoseconds`. */
export function engineTime(ms: number): string {
  const whole = Math.max(0, Math.trunc(ms));
  return `${Math.trunc(whole / 1000)}.${String(whole % 1000).padStart(3, '0')}000000`;
}

export interface LineWatch {
  /** How long the engine may stay silent before `onSilence` is asked. */
  silenceMs: number;
  /** Throws where silence means that the engine is gone; returns where it is only quiet. */
  onSilence(): Promise<void>;
}

/**
 * The lines of an opened log stream, those of a chunk at once, read only as fast as they are taken. Ends with the stream or at once with `signal`; throws
 * where the engine went away or `watch` says so.
 */
export async function* readLines(source: Readable, watch: LineWatch, signal: AbortSignal): AsyncGenerator<LogLine[], void, void> {
  const lines = new FrameLines();
  const fail = (error: Error) => lines.destroy(error);
  source.on('error', fail);
  // A connection that is cut closes without an end; `pipe` would leave the reader waiting.
  source.on(
    'close',
    () => source.readableEnded || fail(Object.assign(new Error('cut off'), { code: 'ERR_STREAM_PREMATURE_CLOSE' })),
  );
  source.pipe(lines);
  const stop = () => lines.destroy();
  signal.addEventListener('abort', stop, { once: true });
  try {
    yield* eachBatch(lines, watch);
  } catch (error) {
    if (!signal.aborted) throw explain('reading logs', error);
  } finally {
    signal.removeEventListener('abort', stop);
    source.destroy();
    lines.destroy();
  }
}

async function* eachBatch(lines: FrameLines, watch: LineWatch): AsyncGenerator<LogLine[], void, void> {
  const iterator = lines[Symbol.asyncIterator]() as AsyncIterator<LogLine[]>;
  for (;;) {
    const next = iterator.next();
    const result = lines.readableLength > 0 ? await next : await patiently(next, watch);
    if (result.done) return;
    yield result.value;
  }
}

async function patiently<T>(next: Promise<T>, watch: LineWatch): Promise<T> {
  for (;;) {
    try {
      return await withDeadline('silence', watch.silenceMs, () => next);
    } catch (error) {
      // Only the deadline of the line above leads here with code `timeout`; all else came from the stream.
      if ((error as { code?: unknown }).code !== 'timeout') throw error;
      await watch.onSilence();
    }
  }
}
