import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { backoffMs } from '../../lib/backoff.js';
import type { Log } from '../../lib/log.js';
import { messageOf } from '../../lib/errors.js';
import { EventQueue } from '../event-queue.js';
import { joinSignals } from '../../lib/joined-signal.js';
import type { RuntimeEvent } from '../runtime.js';
import { unavailable } from './faults.js';
import { engineTime } from './logs.js';
import { ownerOf } from './observed.js';

const KINDS: Record<string, Exclude<RuntimeEvent['type'], 'resync'>> = {
  start: 'start',
  die: 'die',
  oom: 'oom',
  pause: 'pause',
  unpause: 'unpause',
  destroy: 'remove',
};

export interface EventSource {
  installationId: string;
  log: Log;
  /** Opens the engine's event stream from `since` (its own notation) on. */
  open(query: Record<string, string>, signal: AbortSignal): Promise<Readable>;
  /** Throws when the engine does not answer. */
  ping(): Promise<unknown>;
  heartbeatMs: number;
}

/** The engine's event in the shape all its versions share. */
interface EngineEvent {
  Action?: unknown;
  time?: unknown;
  timeNano?: unknown;
  Actor?: { ID?: unknown; Attributes?: Record<string, string> };
}

/**
 * Follows the engine's events for as long as it is read. The engine may go away, hang or forget (it keeps 256 events): after
 * each of these the stream is opened anew from a little before the last event seen, repeats are dropped, and `resync` is said,
 * since what fell into the gap cannot be known.
 */
export class EngineEvents {
  readonly #source: EventSource;
  readonly #seen = new Set<string>();
  #lastSecond: number | undefined;

  constructor(source: EventSource) {
    this.#source = source;
  }

  async *read(signal: AbortSignal): AsyncGenerator<RuntimeEvent, void, void> {
    const queue = new EventQueue();
    const stop = new AbortController();
    const { signal: cut, release } = joinSignals(signal, stop.signal);
    const pump = this.#pump(queue, cut);
    try {
      yield* queue.read(cut);
    } finally {
      stop.abort();
      await pump;
      release();
    }
  }

  /** Reads ahead of the consumer: the engine drops events for a reader that makes it wait. */
  async #pump(queue: EventQueue, signal: AbortSignal): Promise<void> {
    for (let attempt = 1; !signal.aborted; attempt++) {
      try {
        await this.#connectOnce(queue, signal, () => (attempt = 0));
      } catch (error) {
        if (signal.aborted) return;
        this.#source.log.warn({ attempt }, `engine events interrupted: ${messageOf(error)}`);
      }
      await sleep(backoffMs(Math.max(1, attempt), { firstMs: 100, maxMs: 5000 }), undefined, { signal }).catch(() => undefined);
    }
  }

  async #connectOnce(queue: EventQueue, signal: AbortSignal, onOpen: () => void): Promise<void> {
    // The engine answers before it listens, so the time of asking is given as the start.
    const since = this.#lastSecond === undefined ? engineTime(Date.now()) : engineTime((this.#lastSecond - 1) * 1000);
    const filters = JSON.stringify({
      type: ['container'],
      event: Object.keys(KINDS),
      label: [`berth.installation=${this.#source.installationId}`],
    });
    const stream = await this.#source.open({ since, filters }, signal);
    onOpen();
    queue.push({ type: 'resync' });
    const heartbeat = this.#beat((error) => stream.destroy(error));
    try {
      for await (const line of splitLines(stream)) this.#take(line, queue);
      throw unavailable('the engine ended its event stream');
    } finally {
      clearInterval(heartbeat);
      stream.destroy();
    }
  }

  /** A stream that is quiet and one that is dead look the same; asking the engine tells them apart. */
  #beat(giveUp: (error: Error) => void): NodeJS.Timeout {
    let asking = false;
    return setInterval(() => {
      if (asking) return;
      asking = true;
      this.#source
        .ping()
        .catch(giveUp)
        .finally(() => (asking = false));
    }, this.#source.heartbeatMs);
  }

  #take(line: string, queue: EventQueue): void {
    const event = parse(line);
    const type = KINDS[String(event?.Action)];
    if (!event || !type) return;
    const name = event.Actor?.Attributes?.['name'];
    const owner = ownerOf(event.Actor?.Attributes, this.#source.installationId);
    // The time is in nanoseconds, of which JSON keeps all but the last 256: still one moment of one container.
    const key = `${String(event.Actor?.ID)} ${type} ${String(event.timeNano)}`;
    if (!name || !owner || this.#seen.has(key)) return;
    this.#remember(key, event.time);
    queue.push({ type, name, instanceId: owner.instanceId, deploymentId: owner.deploymentId });
  }

  #remember(key: string, time: unknown): void {
    if (typeof time === 'number' && time >= (this.#lastSecond ?? 0)) this.#lastSecond = time;
    this.#seen.add(key);
    // Twice what the engine can repeat; a Set gives its oldest first.
    if (this.#seen.size > 512) this.#seen.delete(this.#seen.values().next().value!);
  }
}

function parse(line: string): EngineEvent | undefined {
  try {
    const event: unknown = JSON.parse(line);
    return event !== null && typeof event === 'object' ? event : undefined;
  } catch (error) {
    throw unavailable('the engine’s event stream is not readable', error);
  }
}

/** The lines of a stream whose chunks hold several, or parts of one. */
export async function* splitLines(stream: Readable, maxBytes = 1024 * 1024): AsyncGenerator<string, void, void> {
  let rest = '';
  stream.setEncoding('utf8');
  for await (const chunk of stream as AsyncIterable<string>) {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop() ?? '';
    if (rest.length > maxBytes) throw unavailable('the engine’s event stream is not readable');
    for (const line of lines) if (line.trim() !== '') yield line;
  }
}
