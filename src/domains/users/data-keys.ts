import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { type Log } from '../../lib/log.js';
import type { Vault } from '../../vault/vault.js';
import { VaultError } from '../../vault/vault-error.js';
import type { Resealed } from '../vault-rotation/vault-rotation.js';
import * as store from './users.store.js';

/** The users' data keys, as far as a change of the master key is concerned: wrapped anew, and what they seal stays as it is. */
export class DataKeys implements Resealed {
  readonly #vault: Vault;
  readonly #log: Log;
  /** Users whose data key was altered: it opens under no key, and must not hold up the others. */
  readonly #broken = new Set<string>();

  constructor({ vault, log }: { vault: Vault; log: Log }) {
    this.#vault = vault;
    this.#log = log;
  }

  left(db: Kysely<Schema>, keyId: Buffer): Promise<number> {
    return store.countWrappedElsewhereAcrossTenants(db, keyId, [...this.#broken]);
  }

  async reseal(trx: Transaction<Schema>, keyId: Buffer, atMost: number): Promise<number> {
    const rows = await store.takeWrappedElsewhereAcrossTenants(trx, keyId, [...this.#broken], atMost);
    let done = 0;
    for (const { id, data_key } of rows) {
      const wrapped = this.#rewrap(id, data_key);
      if (wrapped) await store.setDataKey(trx, id, wrapped);
      done += wrapped ? 1 : 0;
    }
    return done;
  }

  #rewrap(userId: string, dataKey: Buffer): Buffer | undefined {
    try {
      return this.#vault.rewrap(dataKey);
    } catch (error) {
      if (!(error instanceof VaultError)) throw error;
      this.#broken.add(userId);
      this.#log.error({ user: userId, reason: error.reason }, "a user's data key does not open: it stays as it is");
      return undefined;
    }
  }
}
