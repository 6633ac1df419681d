import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { backoffMs } from '../../lib/backoff.js';
import { AppError, messageOf } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import type { Log } from '../../lib/log.js';
import type { Vault } from '../../vault/vault.js';
import { VaultError } from '../../vault/vault-error.js';
import type { AuditKeys } from './audit-keys.js';
import * as store from './audit.store.js';
import type { EntryContext } from './entry-context.js';
import { digestOf, type Entry, sha256, withoutPerson } from './entry.js';

/** What is only kept sealed. */
export interface Personal {
  address?: string;
  path?: string;
  /** The user's name, where a user acted. */
  name?: string;
}

/** An entry before it has a time and its seal. */
export type Draft = Omit<Entry, 'at' | 'personal' | 'personal_digest'> & { person: Personal | undefined };

export interface EntryWriterOptions {
  db: Kysely<Schema>;
  vault: Vault;
  keys: AuditKeys;
  context: EntryContext;
  log: Log;
  processId: string;
}

interface Waiting {
  draft: Draft;
  /** Of whoever waits for it; what nobody waits for is tried again until it is written. */
  settle: ((error?: unknown) => void) | undefined;
}

const AT_ONCE = 200;
/** Entries that nobody waits for and that cannot be written, as while the database is away. */
const KEPT_AT_MOST = 10_000;
/** What nobody waits for lets others come first, so that it goes along with them. */
const LINGER_MS = 50;
const RETRY = { firstMs: 100, maxMs: 5_000 };

/** Where an entry's personal part is sealed for. */
export function placeOf(entryId: string) {
  return { scope: 'audit', name: entryId, version: 1 };
}

/** So many writes at once: what somebody waits for need not wait for the end of one that began before it came. */
const LANES = 2;

/**
 * Writes entries, all that have come meanwhile at once: one request waits for a statement, and a hundred that come together wait for the
 * same one.
 */
export class EntryWriter {
  readonly #options: EntryWriterOptions;
  #waiting: Waiting[] = [];
  readonly #lanes = new Set<Promise<void>>();
  #isGathering = false;
  #failures = 0;
  #lost = 0;
  #later: NodeJS.Timeout | undefined;

  constructor(options: EntryWriterOptions) {
    this.#options = options;
  }

  /** Resolves once it is written; throws `unavailable` where it is not. */
  write(draft: Draft): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({
        draft,
        settle: (error) => {
          if (error === undefined) resolve();
          else
            reject(
              new AppError('unavailable', 'nothing is changed while it cannot be put on record', {
                cause: error,
                retryAfterS: 1,
              }),
            );
        },
      });
      this.#go();
    });
  }

  /** Writes it as soon as may be. */
  add(draft: Draft): void {
    if (this.#waiting.length >= KEPT_AT_MOST) {
      if (this.#lost++ === 0) this.#options.log.error('audit entries are lost: the database has taken none for too long');
      return;
    }
    this.#waiting.push({ draft, settle: undefined });
    this.#goLater(LINGER_MS);
  }

  /** Until nothing is left, or it cannot be written. */
  async flush(): Promise<void> {
    await Promise.all(this.#lanes);
    this.#go();
    await Promise.all(this.#lanes);
    clearTimeout(this.#later);
    this.#later = undefined;
  }

  #go(): void {
    clearTimeout(this.#later);
    this.#later = undefined;
    if (this.#lanes.size >= LANES || this.#isGathering) return;
    this.#isGathering = true;
    const lane = this.#run().finally(() => this.#lanes.delete(lane));
    this.#lanes.add(lane);
  }

  #goLater(ms: number): void {
    this.#later ??= setTimeout(() => this.#go(), ms).unref();
  }

  async #run(): Promise<void> {
    // Those that come within this tick go together.
    await Promise.resolve();
    this.#isGathering = false;
    while (this.#waiting.length > 0) {
      const some = this.#waiting.splice(0, AT_ONCE);
      try {
        await this.#insert(some.map(({ draft }) => draft));
        this.#failures = 0;
        for (const { settle } of some) settle?.();
      } catch (error) {
        return this.#keep(some, error);
      }
    }
  }

  #keep(some: Waiting[], error: unknown): void {
    for (const { settle } of some) settle?.(error);
    this.#waiting.unshift(...some.filter(({ settle }) => settle === undefined));
    this.#options.log.error({ err: error, waiting: this.#waiting.length }, `audit entries wait: ${messageOf(error)}`);
    this.#goLater(backoffMs(++this.#failures, RETRY));
  }

  async #insert(drafts: Draft[]): Promise<void> {
    const { db, keys, processId, context } = this.#options;
    const signer = await keys.signer();
    const owners = drafts.filter(({ user_id, person }) => user_id !== null || person).map(({ user_id }) => user_id);
    const entries = await this.#sealedAll(drafts, owners).catch((error: unknown) => {
      if (!(error instanceof VaultError)) throw error;
      // A copy of a key that was sealed under a master key which is gone: read anew, it opens.
      context.forget();
      return this.#sealedAll(drafts, owners);
    });
    const written = entries.map((entry) => {
      const digest = digestOf(entry);
      return { ...entry, digest, mac: signer.tag('audit entry', digest) };
    });
    context.note(await store.addAcrossTenants(db, written, processId));
  }

  async #sealedAll(drafts: Draft[], owners: (string | null)[]): Promise<Entry[]> {
    const { at, keyOf } = await this.#options.context.of(owners);
    return drafts.map((draft) => this.#sealed(draft, at, draft.person && keyOf(draft.user_id)));
  }

  #sealed({ person, ...draft }: Draft, at: Date, dataKey: Buffer | undefined): Entry {
    const entry = { ...draft, at, personal: null, personal_digest: null };
    if (!person) return entry;
    // Erased since: nothing of the user is written any more.
    if (!dataKey) return withoutPerson(entry);
    const personal = this.#options.vault.seal(dataKey, placeOf(draft.id), Buffer.from(JSON.stringify(person)));
    return { ...entry, personal, personal_digest: sha256(personal) };
  }
}

/** An entry with nothing in it but what kind it is. */
export function draftOf(kind: Entry['kind'], operation: string, actor: string): Draft {
  const id = newId('aud');
  return {
    id,
    kind,
    act: id,
    operation,
    actor,
    user_id: null,
    resource: null,
    request_id: null,
    status: null,
    code: null,
    count: 1,
    request_digest: null,
    before_digest: null,
    after_digest: null,
    person: undefined,
  };
}
