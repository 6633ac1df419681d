/** A token bucket: holds up to `capacity`, starts full, regains `perSecond`. Time is monotonic and in milliseconds. */
export class Bucket {
  readonly #capacity: number;
  readonly #perSecond: number;
  #level: number;
  #atMs: number;

  constructor(capacity: number, perSecond: number, nowMs: number = performance.now()) {
    this.#capacity = capacity;
    this.#perSecond = perSecond;
    this.#level = capacity;
    this.#atMs = nowMs;
  }

  /** Takes `amount` if there is as much; otherwise takes nothing and answers false. */
  take(amount = 1, nowMs: number = performance.now()): boolean {
    this.#regain(nowMs);
    if (this.#level < amount) return false;
    this.#level -= amount;
    return true;
  }

  /** Books what was earned and what was spent since the last time; false once more was spent than there was. */
  settle(spent: number, earned: number, nowMs: number = performance.now()): boolean {
    this.#regain(nowMs);
    this.#level = Math.min(this.#capacity, this.#level + earned - spent);
    return this.#level >= 0;
  }

  /** Takes `amount` whether there is as much or not; answers how many milliseconds to wait before the next time. */
  borrow(amount: number, nowMs: number = performance.now()): number {
    this.#regain(nowMs);
    this.#level -= amount;
    return this.#level >= 0 ? 0 : (-this.#level * 1000) / this.#perSecond;
  }

  #regain(nowMs: number): void {
    const passedMs = Math.max(0, nowMs - this.#atMs);
    this.#level = Math.min(this.#capacity, this.#level + (passedMs * this.#perSecond) / 1000);
    this.#atMs = nowMs;
  }
}
