type Closer = () => unknown;

/** What a benchmark opened, closed in reverse however it ends. */
export class Scope {
  readonly #closers: Closer[] = [];

  add(closer: Closer): void {
    this.#closers.push(closer);
  }

  /** Closes all, whatever some of it throws. */
  async close(): Promise<void> {
    for (const closer of this.#closers.splice(0).reverse()) {
      try {
        await closer();
      } catch (error) {
        process.stderr.write(`bench: closing failed: ${error instanceof Error ? error.message : String(error)}\n`);
      }
    }
  }
}
