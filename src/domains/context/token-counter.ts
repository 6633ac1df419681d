import { Worker } from 'node:worker_threads';

/** How many tokens texts have, in the order of the texts. */
export interface TokenCounts {
  /** `o200k_base`, or `bytes/4` where that could not be had in time. Both are estimates: each model counts in its own way. */
  encoding: 'o200k_base' | 'bytes/4';
  counts: number[];
}

export interface TokenCounterOptions {
  /** The worker goes when nobody has asked for this long: it holds some 85 MB. */
  idleMs?: number;
  timeoutMs?: number;
  /** Added to that for those who ask before the encoding is loaded. */
  startMs?: number;
  /** Asked for at once at most; the next are answered with the rougher estimate. */
  atOnce?: number;
}

interface Asked {
  resolve(counts: number[] | undefined): void;
  timer: NodeJS.Timeout;
}

const IDLE_MS = 30_000;
const TIMEOUT_MS = 3_000;
const START_MS = 15_000;
const AT_ONCE = 32;
const WORKER = new URL('count-worker.mjs', import.meta.url);

/**
 * Counts tokens in a worker that is there only while it is needed (docs/decisions/0003). It never fails: where the worker is too slow, too
 * busy or broken, the answer is the rougher estimate, and says so.
 */
export class TokenCounter {
  readonly #options: Required<TokenCounterOptions>;
  readonly #asked = new Map<number, Asked>();
  #worker: Worker | undefined;
  /** Whether the worker has answered once: the encoding is loaded. */
  #isLoaded = false;
  #idle: NodeJS.Timeout | undefined;
  #next = 1;

  constructor({ idleMs = IDLE_MS, timeoutMs = TIMEOUT_MS, startMs = START_MS, atOnce = AT_ONCE }: TokenCounterOptions = {}) {
    this.#options = { idleMs, timeoutMs, startMs, atOnce };
  }

  async count(texts: readonly string[]): Promise<TokenCounts> {
    const counts = this.#asked.size < this.#options.atOnce ? await this.#ask(texts) : undefined;
    if (counts) return { encoding: 'o200k_base', counts };
    return { encoding: 'bytes/4', counts: texts.map((text) => Math.ceil(Buffer.byteLength(text) / 4)) };
  }

  /** Ends the worker; the next count starts another. */
  async stop(): Promise<void> {
    clearTimeout(this.#idle);
    const worker = this.#worker;
    this.#giveUp();
    await worker?.terminate();
  }

  #ask(texts: readonly string[]): Promise<number[] | undefined> {
    const worker = (this.#worker ??= this.#start());
    clearTimeout(this.#idle);
    const id = this.#next++;
    const { timeoutMs, startMs } = this.#options;
    return new Promise((resolve) => {
      const timer = setTimeout(() => void this.stop(), this.#isLoaded ? timeoutMs : startMs + timeoutMs);
      this.#asked.set(id, { resolve, timer });
      worker.postMessage({ id, texts }, []);
    });
  }

  #start(): Worker {
    // Bounded: a worker that runs out of memory ends alone. Its environment and arguments are empty, as it needs none.
    const worker = new Worker(WORKER, { resourceLimits: { maxOldGenerationSizeMb: 192 }, env: {}, argv: [], execArgv: [] });
    worker.unref();
    worker.on('message', ({ id, counts }: { id: number; counts: number[] }) => this.#settle(id, counts));
    const gone = () => {
      if (this.#worker === worker) this.#giveUp();
    };
    worker.on('error', gone);
    worker.on('exit', gone);
    return worker;
  }

  #settle(id: number, counts: number[]): void {
    const asked = this.#asked.get(id);
    if (!asked) return;
    this.#isLoaded = true;
    this.#asked.delete(id);
    clearTimeout(asked.timer);
    asked.resolve(counts);
    if (this.#asked.size === 0) this.#idle = setTimeout(() => void this.stop(), this.#options.idleMs).unref();
  }

  /** Whoever still waits gets the rougher estimate. */
  #giveUp(): void {
    this.#worker = undefined;
    this.#isLoaded = false;
    for (const { resolve, timer } of this.#asked.values()) {
      clearTimeout(timer);
      resolve(undefined);
    }
    this.#asked.clear();
  }
}
