import type { RuntimeEvent } from './runtime.js';

/**
 * Events waiting for one reader. It never refuses and never grows without end: past its limit what waits is dropped and
 * replaced by one `resync`, which asks the reader for the same work as all that was lost.
 */
export class EventQueue {
  readonly #limit: number;
  #waiting: RuntimeEvent[] = [];
  #wakeUp: (() => void) | undefined;

  constructor(limit = 1000) {
    this.#limit = limit;
  }

  push(event: RuntimeEvent): void {
    if (event.type === 'resync' || this.#waiting.length >= this.#limit) this.#waiting = [{ type: 'resync' }];
    else this.#waiting.push(event);
    this.#wakeUp?.();
  }

  /** Yields events until `signal` aborts. One reader at a time. */
  async *read(signal: AbortSignal): AsyncGenerator<RuntimeEvent, void, void> {
    const wake = () => this.#wakeUp?.();
    signal.addEventListener('abort', wake);
    try {
      while (!signal.aborted) {
        const event = this.#waiting.shift();
        if (event) yield event;
        else await this.#untilPushed(signal);
      }
    } finally {
      signal.removeEventListener('abort', wake);
    }
  }

  #untilPushed(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      this.#wakeUp = () => {
        this.#wakeUp = undefined;
        resolve();
      };
      if (this.#waiting.length > 0 || signal.aborted) this.#wakeUp();
    });
  }
}
