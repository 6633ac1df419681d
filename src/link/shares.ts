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
}
