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

/** The master keys in use: new things are sealed under the current one, old things open under either. */
export class KeyRing {
  readonly current: MasterKey;
  readonly previous: MasterKey | undefined;

  constructor(masterKey: Uint8Array, previous?: Uint8Array) {
    this.current = deriveMasterKey(masterKey);
    this.previous = previous && deriveMasterKey(previous);
  }

  byId(id: Uint8Array): MasterKey {
    const found = [this.current, this.previous].find((key) => key?.id.equals(id));
    if (found) return found;
    throw new VaultError('wrong_key', 'sealed under a master key that is neither MASTER_KEY nor MASTER_KEY_PREVIOUS');
  }
}
