/** Takes secrets out of a text. */
export type Redact = (text: string) => string;

interface Secret {
  name: string;
  value: string;
}

/** What is shorter would be found everywhere. */
const SHORTEST = 6;
/** Of a longer form any run of so many characters is found, so that a value that was cut or wrapped is, too. */
const WINDOW = 16;
/** The lines of a value, each by itself: a line of `}` is no secret. */
const SHORTEST_LINE = 8;
/** Forms beyond raw values are left out where a user has so much that looking for them would cost too much memory. */
const MOST_WINDOWS = 200_000;
const PAUSE_EVERY = 5_000;
const FLAG_BITS = 18;
const BEGIN_MASK = 0xfff;
/** For texts that are no longer, which are nearly all. */
const SCRATCH = Buffer.allocUnsafeSlow(4_096);

/**
 * Finds values of at least 6 characters, and their base64, URL-encoded and JSON-escaped forms, and puts `[secret NAME]` in their place. A line
 * takes time in proportion to its length, whatever the tenant made of secrets and text.
 */
export async function makeRedactor(secrets: Secret[]): Promise<Redact> {
  const windows = new Windows();
  await windows.fill(secrets);
  return windows.isEmpty ? (text) => text : (text) => windows.redact(text);
}

/** The pieces to be found, by their text: a form of up to 16 characters whole, a longer one in overlapping windows of 16. */
class Windows {
  readonly #names: string[] = [];
  readonly #byLength = new Map<number, Map<string, number>>();
  /** Set for the first six characters of every piece, so that nearly every place of a text is passed at once. */
  readonly #flags = new Uint32Array(2 ** (FLAG_BITS - 5));
  /** Set for the first two, which are looked at before anything else. */
  readonly #begins = new Uint8Array(BEGIN_MASK + 1);
  #lengths: number[] = [];
  #count = 0;

  /** Lets other work in between: a tenant decides how much there is to do. */
  async fill(secrets: Secret[]): Promise<void> {
    const shortestFirst = secrets.toSorted((a, b) => a.value.length - b.value.length);
    const chars = secrets.reduce((sum, { value }) => sum + value.length, 0);
    const stride = chars > MOST_WINDOWS ? WINDOW / 2 : WINDOW / 4;
    const names = new Map(shortestFirst.map(({ name }) => [name, this.#names.push(name) - 1]));
    let paused = 0;
    for (const formsOf of [plainForms, otherForms]) {
      for (const { name, value } of shortestFirst) {
        if (formsOf === otherForms && this.#count > MOST_WINDOWS) break;
        for (const form of formsOf(value)) this.#add(form, names.get(name) ?? 0, stride);
        if (this.#count - paused < PAUSE_EVERY) continue;
        paused = this.#count;
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
    this.#lengths = [...this.#byLength.keys()].toSorted((a, b) => b - a);
  }

  get isEmpty(): boolean {
    return this.#count === 0;
  }

  redact(text: string): string {
    let done = '';
    let copied = 0;
    // The stretch that is covered at the moment, and by what.
    let [from, to, name] = [0, -1, 0];
    const close = (): void => {
      if (to < 0) return;
      done += `${text.slice(copied, from)}[secret ${this.#names[name]}]`;
      copied = to;
    };
    const bytes = lowBytesOf(text);
    for (let at = 0, last = text.length - SHORTEST; at <= last; at++) {
      if (this.#begins[beginOf(bytes, at)] === 0 || !this.#isFlagged(bytes, at)) continue;
      const hit = this.#find(text, at);
      if (!hit) continue;
      if (at < to || (at === to && hit.name === name)) to = Math.max(to, at + hit.length);
      else {
        close();
        [from, to, name] = [at, at + hit.length, hit.name];
      }
    }
    close();
    return copied === 0 ? text : done + text.slice(copied);
  }

  #find(text: string, at: number): { length: number; name: number } | undefined {
    for (const length of this.#lengths) {
      const name = this.#byLength.get(length)?.get(text.slice(at, at + length));
      if (name !== undefined) return { length, name };
    }
    return undefined;
  }

  #add(form: string, name: number, stride: number): void {
    if (form.length < SHORTEST) return;
    if (form.length <= WINDOW) return this.#addPiece(form, name);
    for (let at = 0; at < form.length - WINDOW; at += stride) this.#addPiece(form.slice(at, at + WINDOW), name);
    this.#addPiece(form.slice(-WINDOW), name);
  }

  #addPiece(piece: string, name: number): void {
    const pieces = this.#byLength.get(piece.length) ?? new Map<string, number>();
    this.#byLength.set(piece.length, pieces);
    if (pieces.has(piece)) return;
    pieces.set(piece, name);
    this.#count += 1;
    const bytes = Buffer.from(piece, 'latin1');
    this.#begins[beginOf(bytes, 0)] = 1;
    const flag = flagOf(bytes, 0);
    this.#flags[flag >>> 5] = (this.#flags[flag >>> 5] ?? 0) | (1 << (flag & 31));
  }

  #isFlagged(bytes: Buffer, at: number): boolean {
    const flag = flagOf(bytes, at);
    return ((this.#flags[flag >>> 5] ?? 0) & (1 << (flag & 31))) !== 0;
  }
}

/** The low byte of each character, until the next call: a text may be of many kinds inside, and to look at each of its places is slow in most. */
function lowBytesOf(text: string): Buffer {
  if (text.length > SCRATCH.length) return Buffer.from(text, 'latin1');
  SCRATCH.write(text, 'latin1');
  return SCRATCH;
}

function beginOf(bytes: Buffer, at: number): number {
  return (bytes[at]! | (bytes[at + 1]! << 8)) & BEGIN_MASK;
}

function flagOf(bytes: Buffer, at: number): number {
  let hash = 0;
  for (let i = 0; i < SHORTEST; i++) hash = Math.imul(hash ^ bytes[at + i]!, 0x01000193);
  return (hash ^ (hash >>> 15)) >>> (32 - FLAG_BITS);
}

/** The value as it is, as it stands in JSON, and its lines: what prints a key of several lines makes as many lines of it. */
function plainForms(value: string): Set<string> {
  const lines = value.split(/[\r\n]+/).map((line) => line.trim());
  return new Set([value, escaped(value), ...(lines.length > 1 ? lines.filter((line) => line.length >= SHORTEST_LINE) : [])]);
}

function escaped(value: string): string {
  return JSON.stringify(value).slice(1, -1);
}

function otherForms(value: string): Set<string> {
  if (value.length < SHORTEST) return new Set();
  const url = encodeURIComponent(value);
  const withSlash = url.replaceAll('%2F', '/');
  const urls = [url, withSlash, url.replaceAll('%20', '+')];
  const lower = urls.map((form) => form.replaceAll(/%[0-9A-F]{2}/g, (code) => code.toLowerCase()));
  const base64 = [0, 1, 2].map((offset) => base64At(value, offset));
  const base64Url = base64.map((form) => form.replaceAll('+', '-').replaceAll('/', '_'));
  return new Set([...urls, ...lower, ...base64, ...base64Url]);
}

/** What of the base64 of a text depends on the value alone, where so many bytes (modulo three) stand before it. */
function base64At(value: string, offset: number): string {
  const bytes = Buffer.concat([Buffer.alloc(offset), Buffer.from(value, 'utf8')]);
  const first = Math.ceil((offset * 8) / 6);
  return bytes.toString('base64').slice(first, Math.floor((bytes.length * 8) / 6));
}
