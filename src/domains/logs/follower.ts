import type { Bus } from '../../events/bus.js';
import { News } from '../../events/news.js';
import { AppError, messageOf } from '../../lib/errors.js';
import { joinSignals } from '../../lib/joined-signal.js';
import type { LogLine as RuntimeLine } from '../../runtime/runtime.js';
import { lineOf, Mark } from './line.js';
import type { LogLine } from './logs.schema.js';
import type { Redact } from './redact.js';

/** An instance whose lines are wanted. */
export interface Source {
  deploymentId: string;
  instance: string;
}

/** Whom a follower tells. What it returns is awaited before the next line is read, so that nothing piles up here. */
export interface LogReader {
  line(line: LogLine): Promise<void> | undefined;
  /** The lines cannot be had at the moment. Said once, until they come again. */
  waiting(reason: string): Promise<void> | undefined;
}

export interface FollowerOptions {
  bus: Bus;
  /** The instances to follow as of now; undefined when there will never be any again. */
  sources: () => Promise<Source[] | undefined>;
  open: (instance: string, sinceMs: number | undefined, signal: AbortSignal) => AsyncIterable<RuntimeLine>;
  /** Takes the tenant's secrets out of a line, as they are when it comes. */
  hide: Redact;
  wanted: (line: LogLine) => boolean;
  reader: LogReader;
}

/** How often a follower looks for the next instance without having been told of one. */
const POLL_MS = 1_000;

/** Follows instances across their restarts, one stream each, until its signal aborts. */
export class Follower {
  readonly #options: FollowerOptions;
  readonly #marks: Map<string, Mark>;
  readonly #running = new Map<string, Promise<void>>();
  readonly #deployments = new Set<string>();
  #failure: Error | undefined;
  #sending: Promise<void> | undefined;
  #isWaiting = false;

  /** `marks`: how far the lines of instances have been read already. */
  constructor(options: FollowerOptions, marks: Map<string, Mark>) {
    this.#options = options;
    this.#marks = marks;
  }

  async run(signal: AbortSignal): Promise<void> {
    const stop = new AbortController();
    const joined = joinSignals(signal, stop.signal);
    const news = new News(this.#options.bus, (id) => this.#deployments.has(id), joined.signal);
    try {
      for (;;) {
        const sources = await this.#options.sources();
        if (sources === undefined && this.#running.size === 0) return;
        for (const source of sources ?? []) this.#follow(source, stop, joined.signal);
        this.#forget(sources ?? []);
        await news.wait(POLL_MS);
        if (this.#failure !== undefined) throw this.#failure;
        if (signal.aborted) return;
      }
    } finally {
      stop.abort();
      joined.release();
      news.end();
      await Promise.all(this.#running.values());
    }
  }

  #follow({ deploymentId, instance }: Source, stop: AbortController, signal: AbortSignal): void {
    this.#deployments.add(deploymentId);
    if (this.#running.has(instance)) return;
    const mark = this.#marks.get(instance) ?? new Mark();
    this.#marks.set(instance, mark);
    const work = this.#relay({ deploymentId, instance }, mark, signal)
      .catch((error: unknown) => {
        this.#failure ??= error instanceof Error ? error : new Error(messageOf(error));
        stop.abort();
      })
      .finally(() => this.#running.delete(instance));
    this.#running.set(instance, work);
  }

  async #relay({ deploymentId, instance }: Source, mark: Mark, signal: AbortSignal): Promise<void> {
    const isNew = mark.newOnes();
    try {
      for await (const raw of this.#options.open(instance, mark.sinceMs, signal)) {
        if (!isNew(raw)) continue;
        const line = lineOf(raw, deploymentId, this.#options.hide);
        if (this.#options.wanted(line)) await this.#send((reader) => reader.line(line));
        this.#isWaiting = false;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof AppError) || !['not_found', 'unavailable', 'timeout'].includes(error.code)) throw error;
      // Gone: the next instance is looked for. Not to be had: tried again at the next look.
      if (error.code === 'not_found' || this.#isWaiting) return;
      this.#isWaiting = true;
      await this.#send((reader) => reader.waiting(messageOf(error)));
    }
  }

  /** One line at a time over all instances. */
  async #send(say: (reader: LogReader) => Promise<void> | undefined): Promise<void> {
    while (this.#sending) await this.#sending;
    const sent = say(this.#options.reader);
    if (!sent) return;
    this.#sending = sent.finally(() => (this.#sending = undefined));
    await this.#sending;
  }

  #forget(sources: Source[]): void {
    const live = new Set(sources.map(({ instance }) => instance));
    for (const instance of this.#marks.keys())
      if (!live.has(instance) && !this.#running.has(instance)) this.#marks.delete(instance);
  }
}
