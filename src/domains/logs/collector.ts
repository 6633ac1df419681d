import { Bucket } from '../../lib/bucket.js';
import { AppError, messageOf } from '../../lib/errors.js';
import { joinSignals } from '../../lib/joined-signal.js';
import type { LogLine as RuntimeLine, Runtime } from '../../runtime/runtime.js';
import type { LogLimits } from './limits.js';
import { lineOf } from './line.js';
import { Mark, type MarkValue, Resumption } from './mark.js';
import { instanceKey, type ShownRecord, type StoredGap } from './record.js';
import type { Redact } from './redact.js';

/** An instance whose lines are collected. */
export interface Source {
  instanceId: string;
  /** The runtime's name of it. */
  name: string;
  deploymentId: string;
  generation: number;
}

/** Where a collector puts what it reads, and what it must know to read it. */
export interface Basin {
  readonly attempt: number;
  markOf(key: string): MarkValue;
  add(record: ShownRecord, mark: MarkValue, attempt: number): Promise<void> | undefined;
  settle(): Promise<void>;
  /** Takes the user's secrets out, as they are now; a promise where they must be read first. */
  redactor(): Redact | Promise<Redact>;
  /** Whether an agent of that name is in that deployment. */
  knows(deploymentId: string, agent: string): boolean;
  /** No lines can be had of this instance for that reason; undefined: they can again. */
  waiting(instanceId: string, reason: string | undefined): void;
}

export interface CollectorOptions {
  runtime: Pick<Runtime, 'logs'>;
  basin: Basin;
  limits: LogLimits;
  /** What is kept of the deployment's lines. */
  keep: Bucket;
}

/** How many lines from the end a second look begins with; where the last line read is not among them, all that the engine has are looked at. */
const AGAIN_LINES = 1_000;
const ALL_LINES = 1_000_000;
/** So often what was left out is told while it goes on. */
const GAP_EVERY_MS = 1_000;
/** What the engine and the stream add to each line. */
const LINE_COST_BYTES = 64;

/** How a look at an instance ended. */
type Outcome = 'ended' | 'gone' | 'failed' | 'look further' | 'too much';

/** Reads the lines of one instance as they are written, across its restarts, until it is told to finish. */
export class Collector {
  readonly #source: Source;
  readonly #key: string;
  readonly #options: CollectorOptions;
  readonly #read: Bucket;
  #look = new AbortController();
  #wake: (() => void) | undefined;
  #isWoken = false;
  #isFinishing = false;
  #window = AGAIN_LINES;
  /** Whether all that it printed has been read, as far as is known. Of one that was started, nothing has. */
  #isComplete = false;
  #isSkipping = false;
  #gap: StoredGap | undefined;
  #gapTimer: NodeJS.Timeout | undefined;
  readonly #listeners = new Set<() => void>();

  constructor(source: Source, options: CollectorOptions) {
    this.#source = source;
    this.#options = options;
    this.#key = instanceKey({ deployment_id: source.deploymentId, generation: source.generation });
    this.#read = new Bucket(options.limits.readBurstBytes, options.limits.readBytesPerS);
  }

  /** Looks now, where it waits for the next time to look. */
  wake(): void {
    this.#isWoken = true;
    this.#wake?.();
  }

  /** What it reads now is not to be had: it begins anew from the mark, after a while. */
  restart(): void {
    this.#look.abort();
  }

  /** The instance runs no more: what is left of it is read, once. */
  finish(): void {
    if (this.#isFinishing) return;
    this.#isFinishing = true;
    this.wake();
    setTimeout(() => this.restart(), this.#options.limits.lastWordsMs).unref();
  }

  /** Resolves when a look that is under way or begins now has come to the end of what there is, or after `withinMs`. */
  async lastWords(withinMs: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#listeners.delete(done);
        resolve();
      };
      const timer = setTimeout(done, withinMs);
      this.#listeners.add(done);
      this.wake();
    });
  }

  async run(signal: AbortSignal): Promise<void> {
    let fruitless = 0;
    while (!signal.aborted) {
      const isLast = this.#isFinishing;
      const before = this.#options.basin.markOf(this.#key).join();
      const outcome = await this.#lookOnce(signal);
      await this.#options.basin.settle();
      if (outcome === 'look further') continue;
      if (outcome === 'ended' || outcome === 'gone') for (const tell of this.#listeners) tell();
      if (isLast && outcome !== 'failed') return;
      fruitless = before === this.#options.basin.markOf(this.#key).join() ? fruitless + 1 : 0;
      if (outcome === 'too much') await this.#pause(this.#refillMs(), signal, false);
      else await this.#pause(this.#retryMs(fruitless), signal, true);
    }
  }

  /** One stream of lines from the engine, from the mark on, to its end. */
  async #lookOnce(signal: AbortSignal): Promise<Outcome> {
    const { runtime, basin } = this.#options;
    this.#isWoken = false;
    this.#look = new AbortController();
    const cut = joinSignals(signal, this.#look.signal);
    const window = basin.markOf(this.#key)[0] === '' ? ALL_LINES : this.#window;
    this.#window = AGAIN_LINES;
    // What was left out and not told yet is read again, and counted again.
    this.#forgetGap();
    const begun = new Look(basin.markOf(this.#key), window, basin.attempt);
    try {
      const lines = runtime.logs(this.#source.name, { follow: !this.#isFinishing, tail: window }, cut.signal);
      for await (const batch of lines) {
        const outcome = await this.#takeAll(batch, begun);
        if (outcome !== undefined) return outcome;
      }
      if (cut.signal.aborted) return 'failed';
      await this.#tellGap(begun);
      this.#isComplete = true;
      basin.waiting(this.#source.instanceId, undefined);
      return 'ended';
    } catch (error) {
      return cut.signal.aborted ? 'failed' : await this.#failed(error, begun);
    } finally {
      cut.release();
    }
  }

  async #takeAll(batch: readonly RuntimeLine[], look: Look): Promise<Outcome | undefined> {
    for (const raw of batch) {
      const taken = this.#take(raw, look);
      const outcome = taken instanceof Promise ? await taken : taken;
      if (outcome !== undefined) return outcome;
    }
    return undefined;
  }

  /** Takes a line in; answers where the look has to end with it. A promise only where something must be waited for. */
  #take(raw: RuntimeLine, look: Look): Outcome | undefined | Promise<Outcome | undefined> {
    const seen = look.resumption.see(raw.time);
    const bytes = raw.text.length + LINE_COST_BYTES;
    this.#options.basin.waiting(this.#source.instanceId, undefined);
    if (seen === 'old') return undefined;
    if (seen === 'missed') {
      if (look.window < ALL_LINES && !this.#isSkipping) {
        this.#window = ALL_LINES;
        return 'look further';
      }
      this.#miss(raw.time, this.#isSkipping ? TOO_FAST : EATEN);
    }
    this.#isSkipping = false;
    this.#isComplete = false;
    look.mark.note(raw.time);
    if (this.#read.borrow(bytes) > 0) return this.#endTooMuch(raw.time, bytes, look);
    if (this.#options.keep.take(bytes)) return this.#keepLine(raw, look);
    this.#leaveOut(raw.time, bytes, look);
    return undefined;
  }

  async #endTooMuch(time: string, bytes: number, look: Look): Promise<Outcome> {
    this.#leaveOut(time, bytes, look);
    await this.#tellGap(look);
    this.#isSkipping = true;
    return 'too much';
  }

  #keepLine(raw: RuntimeLine, look: Look): undefined | Promise<undefined> {
    const hide = this.#options.basin.redactor();
    if (this.#gap || hide instanceof Promise) return this.#keepLater(raw, look, hide);
    return this.#add(raw, look, hide)?.then(() => undefined);
  }

  async #keepLater(raw: RuntimeLine, look: Look, hide: Redact | Promise<Redact>): Promise<undefined> {
    if (this.#gap) await this.#tellGap(look);
    await this.#add(raw, look, await hide);
  }

  #add(raw: RuntimeLine, look: Look, hide: Redact): Promise<void> | undefined {
    const { basin } = this.#options;
    const { deploymentId, generation } = this.#source;
    const time = Number.isNaN(Date.parse(raw.time)) ? new Date().toISOString() : raw.time;
    const line = lineOf({ ...raw, time }, deploymentId, hide, (agent) => basin.knows(deploymentId, agent));
    return basin.add({ kind: 'line', ...line, generation }, look.mark.value, look.attempt);
  }

  /** Lines that were never seen. */
  #miss(until: string, reason: string): void {
    const [time] = this.#options.basin.markOf(this.#key);
    this.#gap = this.#gapOf(time === '' ? until : time, until, null, null, reason);
  }

  #leaveOut(time: string, bytes: number, look: Look): void {
    const gap = (this.#gap ??= this.#gapOf(time, time, 0, 0, TOO_FAST));
    gap.until = time;
    if (gap.lines !== null) gap.lines += 1;
    if (gap.bytes !== null) gap.bytes += bytes - LINE_COST_BYTES;
    // Where it cannot be told now, the look ends, and what was left out is counted again.
    this.#gapTimer ??= setTimeout(() => void this.#tellGap(look).catch(() => this.restart()), GAP_EVERY_MS);
  }

  #gapOf(time: string, until: string, lines: number | null, bytes: number | null, reason: string): StoredGap {
    const { deploymentId: deployment_id, generation } = this.#source;
    return { kind: 'gap', time, until, deployment_id, generation, lines, bytes, reason, mark: ['', 0] };
  }

  async #tellGap({ mark, attempt }: Look): Promise<void> {
    const gap = this.#gap;
    this.#forgetGap();
    if (!gap) return;
    const full = this.#options.basin.add({ ...gap, mark: mark.value }, mark.value, attempt);
    if (full) await full;
  }

  #forgetGap(): void {
    this.#gap = undefined;
    clearTimeout(this.#gapTimer);
    this.#gapTimer = undefined;
  }

  async #failed(error: unknown, look: Look): Promise<Outcome> {
    this.#forgetGap();
    if (error instanceof AppError && error.code === 'not_found') {
      if (!this.#isComplete) {
        this.#miss(new Date().toISOString(), TAKEN_AWAY);
        await this.#tellGap(look);
      }
      this.#isComplete = true;
      return 'gone';
    }
    this.#options.basin.waiting(this.#source.instanceId, messageOf(error));
    return 'failed';
  }

  #retryMs(fruitless: number): number {
    const { retryFirstMs, retryMaxMs } = this.#options.limits;
    return Math.min(retryMaxMs, retryFirstMs * 2 ** Math.min(fruitless, 16));
  }

  /** Until half of what may be read at once is there again. */
  #refillMs(): number {
    const { readBurstBytes, readBytesPerS } = this.#options.limits;
    return (readBurstBytes / 2 / readBytesPerS) * 1_000;
  }

  #pause(ms: number, signal: AbortSignal, mayBeWoken: boolean): Promise<void> {
    if (signal.aborted || (mayBeWoken && this.#isWoken)) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', done);
        this.#wake = undefined;
        resolve();
      };
      const timer = setTimeout(done, ms);
      signal.addEventListener('abort', done, { once: true });
      if (mayBeWoken) this.#wake = done;
    });
  }
}

/** One stream of lines, and how far it has come. */
class Look {
  readonly resumption: Resumption;
  readonly mark: Mark;
  readonly window: number;
  readonly attempt: number;

  constructor(mark: MarkValue, window: number, attempt: number) {
    this.resumption = new Resumption(mark, window);
    this.mark = new Mark(mark);
    this.window = window;
    this.attempt = attempt;
  }
}

const TOO_FAST = 'printed faster than logs are kept';
const EATEN = 'printed and taken away by the engine before they could be read';
const TAKEN_AWAY = 'the container was taken away before its log was read to the end';
