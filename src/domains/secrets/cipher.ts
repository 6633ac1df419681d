import { AppError } from '../../lib/errors.js';
import type { Vault } from '../../vault/vault.js';
import { VaultError } from '../../vault/vault-error.js';
import type { SecretRow } from './secrets.store.js';

const BOX = { name: 'secrets box', version: 1 };

/** Seals and opens the secrets of one user: the vault with that user's data key, its failures said for the tenant. */
export class Cipher {
  readonly #vault: Vault;
  readonly #dataKey: Buffer;
  readonly #userId: string;

  constructor(vault: Vault, userId: string, dataKey: Buffer) {
    this.#vault = vault;
    this.#userId = userId;
    this.#dataKey = dataKey;
  }

  /** For that version of that name: it opens nowhere else. */
  seal(place: { scope: string; name: string; version: number }, value: Buffer): Buffer {
    this.#check();
    return this.#vault.seal(this.#dataKey, place, value);
  }

  /** Undefined where the row was altered, moved or put back. */
  open({ scope, name, version, value }: SecretRow): Buffer | undefined {
    try {
      this.#check();
      return this.#vault.open(this.#dataKey, { scope, name, version }, value);
    } catch (error) {
      if (error instanceof VaultError || (error instanceof AppError && error.code === 'unprocessable')) return undefined;
      throw error;
    }
  }

  /** A key pair for sealed uploads, with its private half sealed. */
  newBox(): { box_id: string; box_public: Buffer; box_private: Buffer } {
    this.#check();
    const { id, publicKey, privateKey } = this.#vault.newBox();
    const box_private = this.#vault.seal(this.#dataKey, { scope: this.#userId, ...BOX }, privateKey);
    privateKey.fill(0);
    return { box_id: id, box_public: publicKey, box_private };
  }

  /** What was sealed under the public half; undefined where it does not open. */
  openBox(publicKey: Buffer, privateSealed: Buffer, box: Buffer): Buffer | undefined {
    this.#check();
    try {
      const privateKey = this.#vault.open(this.#dataKey, { scope: this.#userId, ...BOX }, privateSealed);
      try {
        return this.#vault.openBox({ publicKey, privateKey }, box);
      } finally {
        privateKey.fill(0);
      }
    } catch (error) {
      if (error instanceof VaultError) return undefined;
      throw error;
    }
  }

  /** The data key must open here, and be this user's and not one that was moved into its row. */
  #check(): void {
    const reason = this.#problem();
    if (reason === undefined) return;
    if (reason === 'wrong_key') {
      throw new AppError(
        'unavailable',
        'this Berth process does not have the master key of the data: it needs the same MASTER_KEY, or the same DATA_DIR, as the others',
        { retryAfterS: 5 },
      );
    }
    throw new AppError('unprocessable', "the user's data key does not open: it was altered or moved in the database");
  }

  #problem(): string | undefined {
    try {
      return this.#vault.userOf(this.#dataKey) === this.#userId ? undefined : 'moved';
    } catch (error) {
      if (error instanceof VaultError) return error.reason;
      throw error;
    }
  }
}
