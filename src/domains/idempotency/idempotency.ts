import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Begun, IdempotencyEntry, IdempotencyStore, KeptAnswer } from '../../http/idempotency.js';
import { AppError } from '../../lib/errors.js';
import type { Vault } from '../../vault/vault.js';
import { VaultError } from '../../vault/vault-error.js';
import * as store from './idempotency.store.js';

const KEPT_S = 24 * 60 * 60;
const LEASE_S = 60;
const PRUNED_AT_ONCE = 1000;

export interface IdempotencyOptions {
  db: Kysely<Schema>;
  vault: Pick<Vault, 'sealInstallation' | 'openInstallation'>;
  /** How long a claim lasts without being renewed. */
  leaseS?: number;
  keptS?: number;
}

/** The answers of requests that came with an `Idempotency-Key`, in the database: they hold for all Berth processes and a restart. */
export class Idempotency implements IdempotencyStore {
  readonly #db: Kysely<Schema>;
  readonly #vault: Pick<Vault, 'sealInstallation' | 'openInstallation'>;
  readonly #leaseS: number;
  readonly #keptS: number;

  constructor({ db, vault, leaseS = LEASE_S, keptS = KEPT_S }: IdempotencyOptions) {
    this.#db = db;
    this.#vault = vault;
    this.#leaseS = leaseS;
    this.#keptS = keptS;
  }

  async begin(entry: IdempotencyEntry): Promise<Begun> {
    const row = { ...claimOf(entry), body_digest: entry.bodyDigest };
    // Between a claim that failed and the look at who holds it, the holder may have let go.
    for (let tries = 0; tries < 3; tries++) {
      if (await store.claim(this.#db, entry.userId, row, { leaseS: this.#leaseS, keptS: this.#keptS })) return 'new';
      const held = await store.findClaimed(this.#db, entry.userId, row);
      if (!held) continue;
      if (held.body_digest !== entry.bodyDigest) return { status: 'mismatch' };
      if (held.state === 'running') return { status: 'running' };
      return { status: 'done', answer: this.#open(entry, held.status, held.answer) };
    }
    throw new AppError('conflict', 'the request with this Idempotency-Key is still running', { retryAfterS: 1 });
  }

  async renew(entry: IdempotencyEntry): Promise<void> {
    await store.settle(this.#db, entry.userId, claimOf(entry), { leaseS: this.#leaseS });
  }

  async finish(entry: IdempotencyEntry, answer: KeptAnswer | undefined, userId = entry.userId): Promise<void> {
    const sealed = answer && this.#vault.sealInstallation(placeOf(entry), pack(answer));
    await store.settle(this.#db, entry.userId, claimOf(entry), {
      state: 'done',
      status: answer?.status ?? 0,
      answer: sealed ?? null,
      user_id: userId,
    });
  }

  async abandon(entry: IdempotencyEntry): Promise<void> {
    await store.release(this.#db, entry.userId, claimOf(entry));
  }

  /** Forgets what is older than a day, a thousand rows at a time. */
  async prune(signal: AbortSignal): Promise<void> {
    while (!signal.aborted && (await store.pruneAcrossTenants(this.#db, this.#keptS, PRUNED_AT_ONCE)) === PRUNED_AT_ONCE);
  }

  #open(entry: IdempotencyEntry, status: number | null, sealed: Buffer | null): KeptAnswer | undefined {
    if (sealed === null) return undefined;
    try {
      return unpack(status ?? 200, this.#vault.openInstallation(placeOf(entry), sealed));
    } catch (error) {
      // Altered, or of a master key that is gone: the request was carried out, and must not be carried out again.
      if (error instanceof VaultError) return undefined;
      throw error;
    }
  }
}

function claimOf({ caller, route, keyDigest, attempt }: IdempotencyEntry): store.Claim {
  return { caller, route, key_digest: keyDigest, attempt };
}

/** An answer opens only where it was kept. */
export function placeOf({ caller, route, keyDigest }: Pick<IdempotencyEntry, 'caller' | 'route' | 'keyDigest'>) {
  return { name: `idempotency ${caller} ${route} ${keyDigest}`, version: 1 };
}

/** Headers as JSON, a line feed, the body. */
function pack({ headers, body }: KeptAnswer): Buffer {
  return Buffer.concat([Buffer.from(`${JSON.stringify(headers)}\n`), body]);
}

function unpack(status: number, packed: Buffer): KeptAnswer {
  const end = packed.indexOf(10);
  return {
    status,
    headers: JSON.parse(packed.toString('utf8', 0, end)) as Record<string, string>,
    body: packed.subarray(end + 1),
  };
}
