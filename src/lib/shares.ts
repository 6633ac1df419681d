import { AppError } from './errors.js';

/** How much of something each user has. Nobody is remembered who has none. */
export class Shares {
  readonly #counts = new Map<string, number>();

  of(userId: string): number {
    return this.#counts.get(userId) ?? 0;
  }

  add(userId: string, change: 1 | -1): void {
    const count = this.of(userId) + change;
    if (count > 0) this.#counts.set(userId, count);
    else this.#counts.delete(userId);
  }

  /** Does what a user may have so many of at once; throws `rate_limited` where there are as many. */
  async during<T>(userId: string, atMost: number, what: string, work: () => Promise<T>): Promise<T> {
    if (this.of(userId) >= atMost) throw new AppError('rate_limited', `more than ${atMost} ${what} at once`, { retryAfterS: 5 });
    this.add(userId, 1);
    try {
      return await work();
    } finally {
      this.add(userId, -1);
    }
  }
}
