/** Looks further apart than this belong to no one stretch: in between another process may have seen the link, or nobody looked. */
const STRETCH_GAP_MS = 15_000;

/** How long instances have been seen without a link, by this process. Forgets those that nobody asks for any more. */
export class Unlinked {
  readonly #now: () => number;
  /** By instance, the one looked at longest ago first. */
  readonly #seen = new Map<string, { sinceMs: number; lastMs: number }>();

  constructor(now: () => number) {
    this.#now = now;
  }

  get size(): number {
    return this.#seen.size;
  }

  /** Notes what is seen now; answers for how many milliseconds it has been so. */
  look(instanceId: string, isLinkUp: boolean): number {
    const nowMs = this.#now();
    this.#forgetUnasked(nowMs);
    const sinceMs = this.#seen.get(instanceId)?.sinceMs ?? nowMs;
    this.#seen.delete(instanceId);
    if (isLinkUp) return 0;
    this.#seen.set(instanceId, { sinceMs, lastMs: nowMs });
    return nowMs - sinceMs;
  }

  #forgetUnasked(nowMs: number): void {
    for (const [id, { lastMs }] of this.#seen) {
      if (nowMs - lastMs <= STRETCH_GAP_MS) return;
      this.#seen.delete(id);
    }
  }
}
