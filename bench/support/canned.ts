/**
 * What the canned upstream is asked for, and what it says. Each word it streams is the time it was written at, by the clock that
 * all processes of a machine share, so that whoever reads it knows how long it was on its way.
 */
export interface Wish {
  words: number;
  /** Milliseconds between words; 0: all at once. */
  gapMs: number;
}

/** The user's message that brings the wish to the upstream, whatever lies in between. */
export function messageFor({ words, gapMs }: Wish): string {
  return `say words=${words} gap=${gapMs} please`;
}

/** The last wish in a request's body. */
export function wishIn(body: string): Wish {
  const match = /words=(\d+) gap=(\d+)/.exec(body.slice(Math.max(0, body.lastIndexOf('words='))));
  return { words: Number(match?.[1] ?? 1), gapMs: Number(match?.[2] ?? 0) };
}

export function nowUs(): number {
  return Number(process.hrtime.bigint() / 1000n);
}

export function wordNow(): string {
  return `@${nowUs()};`;
}

/** Reads the words of one answer out of its raw bytes, in whatever format they come. */
export class WordReader {
  readonly #words: number;
  /** Milliseconds that each word was on its way. */
  readonly delaysMs: number[] = [];
  #rest = '';

  constructor(words: number) {
    this.#words = words;
  }

  /** Berth repeats the whole answer at its end, so no more words are read than were asked for. */
  take(bytes: Buffer): void {
    if (this.delaysMs.length >= this.#words) return;
    const now = nowUs();
    const text = this.#rest + bytes.toString('latin1');
    let from = 0;
    for (const match of text.matchAll(/@(\d+);/g)) {
      this.delaysMs.push((now - Number(match[1])) / 1000);
      from = match.index + match[0].length;
      if (this.delaysMs.length >= this.#words) return;
    }
    this.#rest = text.slice(Math.max(from, text.length - 32));
  }
}
