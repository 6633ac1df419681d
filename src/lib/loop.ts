import type { Log } from './log.js';
import { messageOf } from './errors.js';

export interface Job {
  name: string;
  everyMs: number;
  /** Idempotent, takes no input. `signal` aborts when the loop stops. */
  run(signal: AbortSignal): Promise<void>;
}

/** Runs a job every `everyMs` and whenever woken, never twice at once; a wake during a run causes one more run. */
export class Loop {
  readonly #job: Job;
  readonly #log: Log;
  readonly #stop = new AbortController();
  #woken = false;
  #wakeUp: (() => void) | undefined;
  #done: Promise<void> | undefined;

  constructor(job: Job, log: Log) {
    this.#job = job;
    this.#log = log;
  }

  start(): void {
    this.#done ??= this.#runUntilStopped();
  }

  /** Asks for a run as soon as possible. */
  wake(): void {
    this.#woken = true;
    this.#wakeUp?.();
  }

  /** Aborts the run in progress and waits for its end. */
  async stop(): Promise<void> {
    this.#stop.abort();
    this.#wakeUp?.();
    await this.#done;
  }

  async #runUntilStopped(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      this.#woken = false;
      try {
        await this.#job.run(this.#stop.signal);
      } catch (error) {
        if (!this.#stop.signal.aborted) this.#log.error({ job: this.#job.name, err: error }, `job failed: ${messageOf(error)}`);
      }
      await this.#sleep();
    }
  }

  #sleep(): Promise<void> {
    if (this.#woken || this.#stop.signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, this.#job.everyMs);
      this.#wakeUp = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
