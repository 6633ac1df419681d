import sodium from 'libsodium-wrappers';
import { KEY_ID_BYTES } from './format.js';
import { VaultError } from './vault-error.js';

/** What one master key is used for: each use has a key of its own, derived from it, so that no ciphertext of one fits another. */
export interface MasterKey {
  id: Buffer;
  /** Wraps the data keys of users. */
  wrap: Uint8Array;
  /** Seals what belongs to the installation. */
  installation: Uint8Array;
  /** Tells this master key from another, and nothing else about it. */
  check: Buffer;
}

export const MASTER_KEY_BYTES = 32;
const CONTEXT = 'berth v1';

function deriveMasterKey(master: Uint8Array): MasterKey {
  if (master.length !== MASTER_KEY_BYTES) throw new VaultError('malformed', `a master key has ${MASTER_KEY_BYTES} bytes`);
  const derive = (use: number): Uint8Array => sodium.crypto_kdf_derive_from_key(32, use, CONTEXT, master);
  return {
    id: Buffer.from(derive(1)).subarray(0, KEY_ID_BYTES),
    wrap: derive(2),
    installation: derive(3),
    check: Buffer.from(derive(4)),
  };
}

/** Of a master key, in hexadecimal: names it, and tells nothing else about it. `sodium.ready` must have come. */
export function masterKeyId(master: Uint8Array): string {
  return deriveMasterKey(master).id.toString('hex');
}

/** Reads the master keys that are there now, such as those in files. */
export type ReadKeys = () => Uint8Array[];

/** The master keys of this process: new things are sealed under the current one, old things open under any. */
export class KeyRing {
  #current: MasterKey;
  readonly #keys: MasterKey[];
  readonly #read: ReadKeys | undefined;

  constructor(masterKey: Uint8Array, previous?: Uint8Array, read?: ReadKeys) {
    this.#current = deriveMasterKey(masterKey);
    this.#keys = [this.#current, ...(previous ? [deriveMasterKey(previous)] : [])];
    this.#read = read;
    this.reload();
  }

  get current(): MasterKey {
    return this.#current;
  }

  get all(): readonly MasterKey[] {
    return this.#keys;
  }

  /** A key that is not known may have been made by another process since the last look. */
  byId(id: Uint8Array): MasterKey {
    const found = this.#find(id) ?? (this.reload(), this.#find(id));
    if (found) return found;
    throw new VaultError(
      'wrong_key',
      'sealed under a master key that is neither MASTER_KEY nor MASTER_KEY_PREVIOUS, nor in DATA_DIR',
    );
  }

  byCheck(check: Buffer): MasterKey | undefined {
    const find = () => this.#keys.find((key) => key.check.equals(check));
    return find() ?? (this.reload(), find());
  }

  use(key: MasterKey): void {
    this.#current = key;
  }

  /** Looks for keys that came since. None is ever dropped: what was sealed under it may still be there. */
  reload(): void {
    for (const master of this.#read?.() ?? []) {
      const key = deriveMasterKey(master);
      master.fill(0);
      if (!this.#find(key.id)) this.#keys.push(key);
    }
  }

  #find(id: Uint8Array): MasterKey | undefined {
    return this.#keys.find((key) => key.id.equals(id));
  }
}
