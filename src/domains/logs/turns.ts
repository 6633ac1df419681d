/** Lets so many of one user's works run at once; the others wait for their turn. */
export class Turns {
  readonly #atOnce: number;
  readonly #running = new Map<string, number>();
  readonly #waiting = new Map<string, (() => void)[]>();

  constructor(atOnce: number) {
    this.#atOnce = atOnce;
  }

  async take<T>(userId: string, work: () => Promise<T>): Promise<T> {
    const running = this.#running.get(userId) ?? 0;
    if (running < this.#atOnce) this.#running.set(userId, running + 1);
    else {
      await new Promise<void>((resolve) => {
        const queue = this.#waiting.get(userId) ?? [];
        queue.push(resolve);
        this.#waiting.set(userId, queue);
      });
    }
    try {
      return await work();
    } finally {
      this.#release(userId);
    }
  }

  /** Hands the place on, or gives it back. */
  #release(userId: string): void {
    const queue = this.#waiting.get(userId) ?? [];
    const next = queue.shift();
    if (queue.length === 0) this.#waiting.delete(userId);
    if (next) return next();
    const running = (this.#running.get(userId) ?? 1) - 1;
    if (running > 0) this.#running.set(userId, running);
    else this.#running.delete(userId);
  }
}
