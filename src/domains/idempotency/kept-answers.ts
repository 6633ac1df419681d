import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Vault } from '../../vault/vault.js';
import { VaultError } from '../../vault/vault-error.js';
import type { Resealed } from '../vault-rotation/vault-rotation.js';
import { placeOf } from './idempotency.js';
import * as store from './idempotency.store.js';

/** The kept answers, as far as a change of the master key is concerned: sealed anew, so that a repeated request gets its answer after it too. */
export class KeptAnswers implements Resealed {
  readonly #vault: Vault;

  constructor({ vault }: { vault: Vault }) {
    this.#vault = vault;
  }

  left(db: Kysely<Schema>, keyId: Buffer): Promise<number> {
    return store.countSealedElsewhereAcrossTenants(db, keyId);
  }

  async reseal(trx: Transaction<Schema>, keyId: Buffer, atMost: number): Promise<number> {
    const rows = await store.takeSealedElsewhereAcrossTenants(trx, keyId, atMost);
    for (const { answer, ...row } of rows) await store.setAnswerAcrossTenants(trx, row, answer && this.#reseal(row, answer));
    return rows.length;
  }

  /** One that does not open is dropped: its request was carried out, and that is all that can be said. */
  #reseal(row: store.AnswerKey, answer: Buffer): Buffer | null {
    try {
      return this.#vault.resealInstallation(placeOf({ ...row, keyDigest: row.key_digest }), answer);
    } catch (error) {
      if (error instanceof VaultError) return null;
      throw error;
    }
  }
}
