import type { Bus } from '../../events/bus.js';
import type { Log } from '../../lib/log.js';
import { Loop } from '../../lib/loop.js';

export interface KeyWatchOptions {
  bus: Bus;
  log: Log;
  /** Those of the keys that live. */
  living(keyIds: string[]): Promise<Set<string>>;
  /** How soon the end of a key is noticed of which no word came: one that expired, or whose revocation was said to nobody. */
  everyMs?: number | undefined;
}

/** Ends what a key opened, when that key ends: one question to the database for all that are open. */
export class KeyWatch {
  readonly #options: KeyWatchOptions;
  readonly #watched = new Map<string, Set<() => void>>();
  readonly #loop: Loop;
  #unsubscribe: (() => void)[] = [];

  constructor(options: KeyWatchOptions) {
    this.#options = options;
    const job = { name: 'watch keys of open streams', everyMs: options.everyMs ?? 15_000, run: () => this.#check() };
    this.#loop = new Loop(job, options.log);
  }

  start(): void {
    const { bus } = this.#options;
    const look = () => {
      if (this.#watched.size > 0) this.#loop.wake();
    };
    // The keys of a user or an agent that goes end with it.
    this.#unsubscribe = [
      bus.subscribe('key', (id) => this.#watched.has(id) && look()),
      bus.subscribe('user', look),
      bus.subscribe('agent', look),
    ];
    this.#loop.start();
  }

  async stop(): Promise<void> {
    for (const end of this.#unsubscribe) end();
    await this.#loop.stop();
  }

  /** Calls `onEnd` once the key is dead. Returns what ends the watch. */
  watch(keyId: string, onEnd: () => void): () => void {
    const entry = () => onEnd();
    const all = this.#watched.get(keyId) ?? new Set();
    this.#watched.set(keyId, all.add(entry));
    return () => {
      all.delete(entry);
      if (all.size === 0 && this.#watched.get(keyId) === all) this.#watched.delete(keyId);
    };
  }

  async #check(): Promise<void> {
    if (this.#watched.size === 0) return;
    const asked = [...this.#watched.keys()];
    const living = await this.#options.living(asked);
    for (const keyId of asked) {
      if (living.has(keyId)) continue;
      for (const onEnd of this.#watched.get(keyId) ?? []) onEnd();
    }
  }
}
