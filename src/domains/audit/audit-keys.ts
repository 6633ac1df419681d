import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Signer } from '../../vault/signer.js';
import type { Vault } from '../../vault/vault.js';
import type { Resealed } from '../vault-rotation/vault-rotation.js';
import * as store from './audit.store.js';

const SEED = { name: 'audit.seed', version: 1 };
/** In place of a user: what is sealed here is nobody's of Berth. */
const OWNER = 'audit';

/** The installation's own keys of the audit: one signs, one seals. Made on the first use, and sealed anew when the master key changes. */
export class AuditKeys implements Resealed {
  readonly #db: Kysely<Schema>;
  readonly #vault: Vault;
  #signer: Promise<Signer> | undefined;

  constructor({ db, vault }: { db: Kysely<Schema>; vault: Vault }) {
    this.#db = db;
    this.#vault = vault;
  }

  /** Within a transaction it is opened by that, which has the only connection of an embedded database. */
  signer(db: Kysely<Schema> = this.#db): Promise<Signer> {
    this.#signer ??= this.#open(db).catch((error: unknown) => {
      this.#signer = undefined;
      throw error;
    });
    return this.#signer;
  }

  /** Sealed, as the vault takes it. Read each time, since a change of the master key seals it anew. */
  async dataKey(): Promise<Buffer> {
    await this.signer();
    return (await this.#read(this.#db)).data_key;
  }

  async left(db: Kysely<Schema>, keyId: Buffer): Promise<number> {
    const row = await store.readKeysAcrossTenants(db);
    return row && isElsewhere(row, keyId) ? 1 : 0;
  }

  async reseal(trx: Transaction<Schema>, keyId: Buffer): Promise<number> {
    const row = await store.holdKeysAcrossTenants(trx);
    if (!row || !isElsewhere(row, keyId)) return 0;
    await store.setSealedKeysAcrossTenants(trx, {
      seed: this.#vault.resealInstallation(SEED, row.seed),
      data_key: this.#vault.rewrap(row.data_key),
    });
    return 1;
  }

  async #open(db: Kysely<Schema>): Promise<Signer> {
    const { seed } = await this.#read(db);
    return this.#vault.openSigner(SEED, seed);
  }

  async #read(db: Kysely<Schema>) {
    return (await store.readKeysAcrossTenants(db)) ?? store.insertKeysAcrossTenants(db, this.#make());
  }

  #make() {
    const { signer, sealed } = this.#vault.newSigner(SEED);
    return { public_key: signer.publicKey, seed: sealed, data_key: this.#vault.newDataKey(OWNER) };
  }
}

/** Whether one of them is sealed under another master key than that. */
function isElsewhere({ seed, data_key }: { seed: Buffer; data_key: Buffer }, keyId: Buffer): boolean {
  return [seed, data_key].some((sealed) => !sealed.subarray(1, 9).equals(keyId));
}
