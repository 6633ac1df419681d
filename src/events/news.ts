import type { Bus } from './bus.js';

/** Waits for the next word on the bus about a deployment it cares for, or for a time. Words that come between two waits are not lost. */
export class News {
  readonly #unsubscribe: () => void;
  readonly #signal: AbortSignal;
  #heard = false;
  #wake: (() => void) | undefined;

  constructor(bus: Bus, caresFor: (deploymentId: string) => boolean, signal: AbortSignal) {
    this.#signal = signal;
    this.#unsubscribe = bus.subscribe('deployment', (id) => {
      if (!caresFor(id)) return;
      this.#heard = true;
      this.#wake?.();
    });
  }

  /** Resolves after a word, after `timeoutMs`, or when the signal aborts. */
  async wait(timeoutMs: number): Promise<void> {
    if (!this.#heard && !this.#signal.aborted) await this.#nextWord(timeoutMs);
    this.#heard = false;
  }

  end(): void {
    this.#unsubscribe();
  }

  #nextWord(timeoutMs: number): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#signal.removeEventListener('abort', done);
        this.#wake = undefined;
        resolve();
      };
      const timer = setTimeout(done, timeoutMs);
      this.#signal.addEventListener('abort', done, { once: true });
      this.#wake = done;
    });
  }
}
