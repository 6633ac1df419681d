import { messageOf } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';

export interface WorkersOptions<T extends { id: string }> {
  atATime: number;
  /** Takes up to so many that nobody works on, for `HOLD_S`. */
  claim(limit: number, holdS: number): Promise<T[]>;
  /** Nobody else takes it up for so long. */
  hold(work: T, seconds: number): Promise<void>;
  /** Does it as far as it can be done now; answers after how long to look again where that is not to its end. */
  work(work: T, signal: AbortSignal): Promise<{ againInS: number } | undefined>;
  /** What cannot be done: says so in the database, or answers after how long to try again. */
  failed(work: T, error: unknown): Promise<{ againInS: number } | undefined>;
  log: Log;
}

/** How long a claim stands unless it is kept: what a killed process was at is begun anew after it. */
const HOLD_S = 30;
const KEEP_EVERY_MS = 10_000;

/** Works on what a table says is to be done, a few at a time; one that takes long holds up none of the others. */
export class Workers<T extends { id: string }> {
  readonly #options: WorkersOptions<T>;
  readonly #running = new Map<string, Promise<void>>();
  readonly #stop = new AbortController();
  /** One look after the other, or two would take up more than there is room for. */
  #look: Promise<void> = Promise.resolve();

  constructor(options: WorkersOptions<T>) {
    this.#options = options;
  }

  /** Takes up what there is, without waiting for its end. */
  run(): Promise<void> {
    const look = this.#look.then(() => this.#takeUp());
    this.#look = look.catch(() => undefined);
    return look;
  }

  async #takeUp(): Promise<void> {
    const free = this.#options.atATime - this.#running.size;
    if (free <= 0 || this.#stop.signal.aborted) return;
    for (const work of await this.#options.claim(free, HOLD_S)) {
      if (this.#running.has(work.id)) continue;
      this.#running.set(
        work.id,
        this.#do(work).finally(() => this.#running.delete(work.id)),
      );
    }
  }

  /** Breaks off what is being done, to be begun anew by whoever comes next. */
  async stop(): Promise<void> {
    this.#stop.abort(new Error('Berth is stopping'));
    await Promise.all(this.#running.values());
  }

  async #do(work: T): Promise<void> {
    const { hold, log } = this.#options;
    const keeping = setInterval(() => {
      hold(work, HOLD_S).catch((error: unknown) => log.warn({ id: work.id, err: error }, 'a claim could not be kept'));
    }, KEEP_EVERY_MS);
    try {
      const next = await this.#options.work(work, this.#stop.signal).catch((error: unknown) => this.#failed(work, error));
      if (next) await hold(work, next.againInS);
    } catch (error) {
      // Its claim runs out, and it is tried again.
      log.error({ id: work.id, err: error }, `what is to be done could not be written down: ${messageOf(error)}`);
    } finally {
      clearInterval(keeping);
    }
  }

  #failed(work: T, error: unknown): Promise<{ againInS: number } | undefined> {
    if (this.#stop.signal.aborted) return Promise.resolve({ againInS: 0 });
    return this.#options.failed(work, error);
  }
}
