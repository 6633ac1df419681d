import { AppError } from '../../lib/errors.js';

const AT_ONCE = 2;
const WAITING_AT_MOST = 6;

/**
 * Where packages are taken apart and put together. Each is in memory several times meanwhile, so only few are at work at once; when too many wait,
 * the next is told to come back.
 */
export class Workbench {
  #busy = 0;
  readonly #waiting: (() => void)[] = [];

  async use<T>(work: () => Promise<T>): Promise<T> {
    if (this.#busy < AT_ONCE) this.#busy += 1;
    else await this.#turn();
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      // The place is handed over as it is, so that nobody can slip in between.
      if (next) next();
      else this.#busy -= 1;
    }
  }

  #turn(): Promise<void> {
    if (this.#waiting.length >= WAITING_AT_MOST)
      throw new AppError('unavailable', 'too many skills are being uploaded or installed at once', { retryAfterS: 2 });
    return new Promise((resolve) => this.#waiting.push(resolve));
  }
}
