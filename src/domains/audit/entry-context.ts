import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import type { AuditKeys } from './audit-keys.js';
import * as store from './audit.store.js';

export interface EntryContextOptions {
  db: Kysely<Schema>;
  bus: Bus;
  keys: AuditKeys;
}

/** What entries need that are written now: the database's time, and the sealed data key of each user, or of the installation where they are of none. */
export interface Context {
  at: Date;
  keyOf(userId: string | null): Buffer | undefined;
}

/** As long as copies of keys are kept elsewhere: a process that dies between its commit and its word on the bus leaves them behind. */
const KEPT_FOR_MS = 5_000;
const KEPT_AT_MOST = 10_000;
/** The database's clock may be set: what was heard of it longer ago is asked for anew. */
const TIME_FOR_MS = 60_000;
/** Two clocks of one machine that differ by more tell that it slept. */
const SLEPT_MS = 1_000;

/**
 * Knows, without asking for it each time, what the database would say: its time, which each write tells and which goes on by this process's
 * clock that cannot be set, and keys, until the bus says that their user or the master key changed. A copy that outlives its user does no
 * harm: the write itself looks whether the user is there.
 */
export class EntryContext {
  readonly #options: EntryContextOptions;
  /** By user; '' is the installation. */
  readonly #kept = new Map<string, { key: Buffer; staleAtMs: number }>();
  #time: { at: number; monotonicMs: number; wallMs: number } | undefined;
  /** Rises with each word of a change, so that what was read before it is not kept after it. */
  #changes = 0;

  constructor(options: EntryContextOptions) {
    this.#options = options;
    const { bus } = options;
    bus.subscribe('user', (userId) => this.#drop(userId));
    bus.subscribe('vault', () => this.forget());
    bus.onTrustLost(() => this.forget());
  }

  /** For entries of these users. */
  async of(userIds: readonly (string | null)[]): Promise<Context> {
    const wanted = [...new Set(userIds.map((id) => id ?? ''))];
    const at = this.#now();
    // All of them now: one that grows stale a moment later must not look like that of a user that is gone.
    const kept = new Map(wanted.flatMap((id) => this.#fresh(id)));
    return at && kept.size === wanted.length ? contextOf(at, kept) : this.#ask(wanted);
  }

  /** What the database said its time is, just now. */
  note(at: Date): void {
    this.#time = { at: at.getTime(), monotonicMs: performance.now(), wallMs: Date.now() };
  }

  /** Every copy of a key. */
  forget(): void {
    this.#changes += 1;
    this.#kept.clear();
  }

  async #ask(wanted: string[]): Promise<Context> {
    const { db, keys } = this.#options;
    const changes = this.#changes;
    const users = wanted.filter((id) => id !== '');
    const { at, dataKeys } = await store.contextAcrossTenants(db, users);
    this.note(at);
    const known = new Map(dataKeys);
    if (wanted.includes('')) known.set('', await keys.dataKey());
    if (this.#options.bus.trusted && changes === this.#changes) for (const [id, key] of known) this.#keep(id, key);
    return contextOf(at, known);
  }

  #now(): Date | undefined {
    if (!this.#time) return undefined;
    const passedMs = performance.now() - this.#time.monotonicMs;
    const hasSlept = Math.abs(Date.now() - this.#time.wallMs - passedMs) > SLEPT_MS;
    return hasSlept || passedMs > TIME_FOR_MS ? undefined : new Date(this.#time.at + Math.floor(passedMs));
  }

  #fresh(id: string): [string, Buffer][] {
    const kept = this.#kept.get(id);
    return kept && kept.staleAtMs > performance.now() ? [[id, kept.key]] : [];
  }

  #keep(id: string, key: Buffer): void {
    if (this.#kept.size >= KEPT_AT_MOST) this.#kept.clear();
    this.#kept.set(id, { key, staleAtMs: performance.now() + KEPT_FOR_MS });
  }

  #drop(userId: string): void {
    this.#changes += 1;
    this.#kept.delete(userId);
  }
}

function contextOf(at: Date, keys: ReadonlyMap<string, Buffer>): Context {
  return { at, keyOf: (userId) => keys.get(userId ?? '') };
}
