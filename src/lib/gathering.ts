/** Does many things as one: those that come while others are under way are done together after them. */
export class Gathering<T, R> {
  readonly #doAll: (all: T[]) => Promise<R>;
  #next: { all: T[]; done: Promise<R> } | undefined;
  #last: Promise<unknown> = Promise.resolve();

  constructor(doAll: (all: T[]) => Promise<R>) {
    this.#doAll = doAll;
  }

  /** Settles with those that it was done together with. */
  add(one: T): Promise<R> {
    const next = (this.#next ??= this.#begin());
    next.all.push(one);
    return next.done;
  }

  #begin(): { all: T[]; done: Promise<R> } {
    const all: T[] = [];
    const done = this.#last.then(() => {
      this.#next = undefined;
      return this.#doAll(all);
    });
    this.#last = done.catch(() => undefined);
    return { all, done };
  }
}
