import { readFileSync } from 'node:fs';
import { createHash, timingSafeEqual } from 'node:crypto';

/** The instance's token, read from its file. Berth may replace the file at any time; `refresh` takes the new one up. */
export class Credentials {
  readonly #path: string;
  #token = '';

  constructor(path: string) {
    this.#path = path;
    this.refresh();
  }

  get token(): string {
    return this.#token;
  }

  /** Reads the file again; true when the token is another than before. A file that is missing for a moment changes nothing. */
  refresh(): boolean {
    let read: string;
    try {
      read = readFileSync(this.#path, 'utf8').trim();
    } catch {
      return false; // Berth replaces it by rename, or has not written it yet: the next dial looks again.
    }
    const changed = read !== '' && read !== this.#token;
    if (changed) this.#token = read;
    return changed;
  }

  /** Whether an `Authorization` header carries the token. Takes the same time for every wrong one. */
  accepts(authorization: string | undefined): boolean {
    if (this.#token === '' || !authorization?.startsWith('Bearer ')) return false;
    return timingSafeEqual(digest(authorization.slice('Bearer '.length).trim()), digest(this.#token));
  }
}

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
