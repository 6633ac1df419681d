import { makeRedactor, type Redact } from './redactor.js';

const KEPT = 64;

/** The redactors of users, kept while their secrets stay as they are. */
export class Redactors {
  readonly #load: (userId: string) => Promise<{ name: string; value: string }[]>;
  // Least recently used first.
  readonly #kept = new Map<string, { version: number; redact: Promise<Redact> }>();

  constructor(load: (userId: string) => Promise<{ name: string; value: string }[]>) {
    this.#load = load;
  }

  /** That of the user's secrets at this version, or at a later one. */
  async of(userId: string, version: number): Promise<Redact> {
    const known = this.#kept.get(userId);
    this.#kept.delete(userId);
    const entry = known?.version === version ? known : { version, redact: this.#load(userId).then(makeRedactor) };
    this.#kept.set(userId, entry);
    const oldest = this.#kept.size > KEPT ? this.#kept.keys().next().value : undefined;
    if (oldest !== undefined) this.#kept.delete(oldest);
    try {
      return await entry.redact;
    } catch (error) {
      if (this.#kept.get(userId) === entry) this.#kept.delete(userId);
      throw error;
    }
  }

  forget(userId: string): void {
    this.#kept.delete(userId);
  }
}
