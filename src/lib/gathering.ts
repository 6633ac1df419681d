/** Nobody waits longer for those before: of what has no answer, as from a connection that is lost, only those who are part of it wait for one. */
const PATIENCE_MS = 1_000;

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
    const done = atMost(PATIENCE_MS, this.#last).then(() => {
      this.#next = undefined;
      return this.#doAll(all);
    });
    this.#last = done.then(noted, noted);
    return { all, done };
  }
}

function noted(): void {}

function atMost(timeoutMs: number, work: Promise<unknown>): Promise<unknown> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise((resolve) => (timer = setTimeout(resolve, timeoutMs)));
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}
