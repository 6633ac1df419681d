const SPACE = /[ \t\n\r]*/y;
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const SCALAR = /true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;

/**
 * Where a text that `JSON.parse` refused stops being JSON, in words. `JSON.parse` itself gives a position in some Node versions and
 * quotes the text in others, and a body may hold a password; so the text is walked once more, on this path alone.
 */
export function placeOfJsonError(text: string): string {
  if (text.trim() === '') return 'is empty';
  const offset = new Walk(text).run();
  const before = text.slice(0, offset);
  const line = before.split('\n').length;
  const column = offset - (before.lastIndexOf('\n') + 1) + 1;
  if (offset >= text.trimEnd().length) return `is not valid JSON: it ends too early, at line ${line}, column ${column}`;
  return `is not valid JSON at line ${line}, column ${column}`;
}

type Expect = 'value' | 'valueOrEnd' | 'name' | 'nameOrEnd' | 'colon' | 'next' | 'end';

/** A JSON reader that keeps nothing but the place; a stack of brackets instead of recursion. */
class Walk {
  readonly #text: string;
  readonly #open: ('{' | '[')[] = [];
  #at = 0;
  #expect: Expect = 'value';

  constructor(text: string) {
    this.#text = text;
  }

  run(): number {
    for (;;) {
      this.#skip(SPACE);
      if (this.#at >= this.#text.length || !this.#step(this.#text.charAt(this.#at))) return this.#at;
    }
  }

  #step(char: string): boolean {
    switch (this.#expect) {
      case 'valueOrEnd':
        return char === ']' ? this.#close() : this.#value(char);
      case 'value':
        return this.#value(char);
      case 'nameOrEnd':
        return char === '}' ? this.#close() : this.#name();
      case 'name':
        return this.#name();
      case 'colon':
        return this.#take(char === ':', 'value');
      case 'next':
        return this.#next(char);
      case 'end':
        return false;
    }
  }

  #value(char: string): boolean {
    if (char === '{' || char === '[') {
      this.#open.push(char);
      return this.#take(true, char === '{' ? 'nameOrEnd' : 'valueOrEnd');
    }
    if (!this.#skip(char === '"' ? STRING : SCALAR)) return false;
    this.#expect = this.#open.length > 0 ? 'next' : 'end';
    return true;
  }

  #name(): boolean {
    if (!this.#skip(STRING)) return false;
    this.#expect = 'colon';
    return true;
  }

  #next(char: string): boolean {
    const inObject = this.#open.at(-1) === '{';
    if (char === (inObject ? '}' : ']')) return this.#close();
    return this.#take(char === ',', inObject ? 'name' : 'value');
  }

  #close(): boolean {
    this.#open.pop();
    return this.#take(true, this.#open.length > 0 ? 'next' : 'end');
  }

  #take(fits: boolean, then: Expect): boolean {
    if (!fits) return false;
    this.#at += 1;
    this.#expect = then;
    return true;
  }

  #skip(pattern: RegExp): boolean {
    pattern.lastIndex = this.#at;
    if (!pattern.test(this.#text)) return false;
    this.#at = pattern.lastIndex;
    return true;
  }
}
