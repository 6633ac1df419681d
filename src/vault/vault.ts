import sodium from 'libsodium-wrappers';
import { type BoxKeys, newBoxKeys, openBox } from './box.js';
import {
  bind,
  DATA_KEY,
  headerOf,
  INSTALLATION,
  KEY_CHECK,
  KEY_ID_BYTES,
  NONCE_BYTES,
  parseSealed,
  type Sealed,
  STREAM,
  VALUE,
} from './format.js';
import { KeyRing, type ReadKeys } from './key-ring.js';
import { newSigningSeed, Signer } from './signer.js';
import { openStream, sealStream, STREAM_KEY_BYTES } from './stream.js';
import { VaultError } from './vault-error.js';

/** Where a sealed value belongs. Bytes moved to another place do not open there. */
export interface Place {
  /** The id of the user or agent whose it is. */
  scope: string;
  name: string;
  version: number;
}

export type InstallationPlace = Omit<Place, 'scope'>;

export interface VaultOptions {
  /** 32 bytes. Only keys derived from it are kept: the caller may overwrite it after `open`. */
  masterKey: Uint8Array;
  /** The master key before this one, while data keys are still wrapped under it. */
  previous?: Uint8Array | undefined;
  /** Reads further keys, now and whenever one is met that is not known. */
  read?: ReadKeys | undefined;
}

interface DataKey {
  id: Buffer;
  key: Uint8Array;
  userId: string;
}

const KEPT_DATA_KEYS = 256;

/**
 * Seals and opens bytes. Every user has a data key, wrapped under the master key; what a user owns is sealed under the data
 * key, so that destroying the wrapped key destroys all of it, and a new master key needs the data keys wrapped anew and nothing
 * else. Layouts: format.ts. Everything that fails throws a `VaultError`.
 */
export class Vault {
  readonly #ring: KeyRing;
  // Unwrapped data keys by their sealed form, least recently used first.
  readonly #dataKeys = new Map<string, DataKey>();

  private constructor(ring: KeyRing) {
    this.#ring = ring;
  }

  static async open({ masterKey, previous, read }: VaultOptions): Promise<Vault> {
    await sodium.ready;
    return new Vault(new KeyRing(masterKey, previous, read));
  }

  // ---- master keys ---------------------------------------------------------------------------------------------------------

  /** To be stored where the sealed things are: `verifyKeyCheck` tells from it whether a later start has the right master key. */
  keyCheck(): Buffer {
    return Buffer.concat([Buffer.of(KEY_CHECK), this.#ring.current.check]);
  }

  /**
   * Throws unless the stored value was made under a master key of the ring. `previous` means that the master key is being
   * changed: once all data keys and installation values are sealed anew, `keyCheck()` is to be stored again.
   */
  verifyKeyCheck(stored: Uint8Array): 'current' | 'previous' {
    if (stored[0] !== KEY_CHECK) throw new VaultError('malformed', 'the stored check of the master key is not one');
    const found = this.#ring.byCheck(Buffer.from(stored.subarray(1)));
    if (found) return found === this.#ring.current ? 'current' : 'previous';
    throw new VaultError(
      'wrong_key',
      'the master key is not the one this database was sealed with. Nothing was changed. Give the right one in MASTER_KEY ' +
        '(or DATA_DIR/master.key); after a change of keys, give the old one in MASTER_KEY_PREVIOUS.',
    );
  }

  /** Ids of the master keys that this process has, in hexadecimal; keys that came since the last look are among them. */
  masterKeyIds(): string[] {
    this.#ring.reload();
    return this.#ring.all.map(({ id }) => id.toString('hex'));
  }

  /** The id of the master key that the vault was opened with. */
  get configuredId(): string {
    return this.#ring.all[0]?.id.toString('hex') ?? '';
  }

  /** The id of the master key that new things are sealed under. */
  get sealingId(): string {
    return this.#ring.current.id.toString('hex');
  }

  /** From now on new things are sealed under the key with this id, or the one that a stored `keyCheck` was made with. */
  sealUnder(key: string | Uint8Array): void {
    if (typeof key === 'string') return this.#ring.use(this.#ring.byId(Buffer.from(key, 'hex')));
    this.verifyKeyCheck(key);
    const found = this.#ring.byCheck(Buffer.from(key.subarray(1)));
    if (found) this.#ring.use(found);
  }

  // ---- data keys -----------------------------------------------------------------------------------------------------------

  /** A new random data key for a user, sealed. Store it with the user; all that is sealed under it is lost with it. */
  newDataKey(userId: string): Buffer {
    const key = sodium.randombytes_buf(32);
    try {
      return this.#wrap(key, userId);
    } finally {
      wipe(key);
    }
  }

  /** Whose data key it is, so that a caller can make sure that it was not moved to another user's row. */
  userOf(dataKeySealed: Uint8Array): string {
    return this.#unwrap(dataKeySealed).userId;
  }

  /** The same data key sealed under the current master key; the same bytes where it already is. */
  rewrap(dataKeySealed: Uint8Array): Buffer {
    if (parseSealed(DATA_KEY, dataKeySealed).keyId.equals(this.#ring.current.id)) return Buffer.from(dataKeySealed);
    const { key, userId } = this.#unwrap(dataKeySealed);
    return this.#wrap(key, userId);
  }

  /** Overwrites the unwrapped copy in memory; to be called when its user is deleted. */
  forget(dataKeySealed: Uint8Array): void {
    const of = (at: string) => this.#dataKeys.get(at)?.id.toString('hex');
    const id = of(mapKey(dataKeySealed));
    // From before a rotation there may be another sealed form of the same key.
    for (const at of id === undefined ? [] : this.#dataKeys.keys()) if (of(at) === id) this.#drop(at);
  }

  #wrap(key: Uint8Array, userId: string): Buffer {
    const { id, wrap } = this.#ring.current;
    const header = headerOf(DATA_KEY, id, userId);
    return encrypt(header, header, key, wrap);
  }

  #unwrap(dataKeySealed: Uint8Array): DataKey {
    const at = mapKey(dataKeySealed);
    const kept = this.#dataKeys.get(at);
    if (kept) this.#dataKeys.delete(at);
    const dataKey = kept ?? this.#openDataKey(dataKeySealed);
    this.#dataKeys.set(at, dataKey);
    const oldest = this.#dataKeys.size > KEPT_DATA_KEYS ? this.#dataKeys.keys().next().value : undefined;
    if (oldest !== undefined) this.#drop(oldest);
    return dataKey;
  }

  #openDataKey(dataKeySealed: Uint8Array): DataKey {
    const sealed = parseSealed(DATA_KEY, dataKeySealed);
    const key = decrypt(sealed, sealed.header, this.#ring.byId(sealed.keyId).wrap, 'a data key');
    return { id: idOf(key), key, userId: sealed.userId };
  }

  #drop(at: string): void {
    const kept = this.#dataKeys.get(at);
    if (!kept) return;
    this.#dataKeys.delete(at);
    wipe(kept.key);
  }

  // ---- boxes ---------------------------------------------------------------------------------------------------------------

  /** A key pair under whose public half clients may seal what only the private half opens; the id tells it from another. */
  newBox(): BoxKeys & { id: string } {
    const keys = newBoxKeys();
    return {
      ...keys,
      id: Buffer.from(sodium.crypto_generichash(16, keys.publicKey, null).subarray(0, KEY_ID_BYTES)).toString('hex'),
    };
  }

  /** What was sealed with libsodium's `crypto_box_seal`. */
  openBox(keys: BoxKeys, box: Uint8Array): Buffer {
    return openBox(keys, box);
  }

  // ---- signing keys --------------------------------------------------------------------------------------------------------

  /** A new signing key of the installation, and its seed sealed, to be stored. */
  newSigner(place: InstallationPlace): { signer: Signer; sealed: Buffer } {
    const seed = newSigningSeed();
    try {
      return { signer: new Signer(seed), sealed: this.sealInstallation(place, seed) };
    } finally {
      wipe(seed);
    }
  }

  openSigner(place: InstallationPlace, sealed: Uint8Array): Signer {
    const seed = this.openInstallation(place, sealed);
    try {
      return new Signer(seed);
    } finally {
      wipe(seed);
    }
  }

  // ---- values --------------------------------------------------------------------------------------------------------------

  /** Seals bytes under a user's data key, for one place. */
  seal(dataKeySealed: Uint8Array, place: Place, plain: Uint8Array): Buffer {
    const { id, key, userId } = this.#unwrap(dataKeySealed);
    return encrypt(headerOf(VALUE, id), bind(VALUE, userId, place.scope, place.name, place.version), plain, key);
  }

  /** The plain bytes; `wipe` them after use. */
  open(dataKeySealed: Uint8Array, place: Place, bytes: Uint8Array): Buffer {
    const { id, key, userId } = this.#unwrap(dataKeySealed);
    const sealed = parseSealed(VALUE, bytes);
    if (!id.equals(sealed.keyId))
      throw new VaultError('wrong_key', 'a value is sealed under another data key than the one given');
    return decrypt(sealed, bind(VALUE, userId, place.scope, place.name, place.version), key, 'a value');
  }

  /** A key for one long thing of a user, sealed for its place: `sealStream` and `openStream` take it. */
  newStreamKey(dataKeySealed: Uint8Array, place: Place): Buffer {
    const key = sodium.randombytes_buf(STREAM_KEY_BYTES);
    try {
      return this.seal(dataKeySealed, place, key);
    } finally {
      wipe(key);
    }
  }

  /** Seals what is too long for memory, as it comes; what comes of it opens with the same key only. */
  async *sealStream(dataKeySealed: Uint8Array, place: Place, streamKey: Uint8Array, plain: AsyncIterable<Uint8Array>) {
    const key = this.open(dataKeySealed, place, streamKey);
    try {
      yield* sealStream(key, boundTo(place), plain);
    } finally {
      wipe(key);
    }
  }

  /** The plain bytes of a sealed stream. What was given out is sound; one that was altered or cut short ends in a `VaultError`. */
  async *openStream(dataKeySealed: Uint8Array, place: Place, streamKey: Uint8Array, sealed: AsyncIterable<Uint8Array>) {
    const key = this.open(dataKeySealed, place, streamKey);
    try {
      yield* openStream(key, boundTo(place), sealed);
    } finally {
      wipe(key);
    }
  }

  /** Seals bytes that belong to no user, such as the pepper of API keys. */
  sealInstallation(place: InstallationPlace, plain: Uint8Array): Buffer {
    const { id, installation } = this.#ring.current;
    return encrypt(headerOf(INSTALLATION, id), bind(INSTALLATION, place.name, place.version), plain, installation);
  }

  /** The same bytes sealed under the current master key. */
  resealInstallation(place: InstallationPlace, bytes: Uint8Array): Buffer {
    const plain = this.openInstallation(place, bytes);
    try {
      return this.sealInstallation(place, plain);
    } finally {
      wipe(plain);
    }
  }

  openInstallation(place: InstallationPlace, bytes: Uint8Array): Buffer {
    const sealed = parseSealed(INSTALLATION, bytes);
    const { installation } = this.#ring.byId(sealed.keyId);
    return decrypt(sealed, bind(INSTALLATION, place.name, place.version), installation, 'a value of the installation');
  }
}

/** Overwrites bytes with zeros. Best effort: JavaScript may have made copies. */
export function wipe(bytes: Uint8Array): void {
  bytes.fill(0);
}

function encrypt(header: Buffer, bound: Buffer, plain: Uint8Array, key: Uint8Array): Buffer {
  const nonce = sodium.randombytes_buf(NONCE_BYTES);
  const ciphertext = sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(plain, bound, null, nonce, key);
  return Buffer.concat([header, nonce, ciphertext]);
}

function decrypt(sealed: Sealed, bound: Buffer, key: Uint8Array, what: string): Buffer {
  try {
    const plain = sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(null, sealed.ciphertext, bound, sealed.nonce, key);
    return Buffer.from(plain.buffer, plain.byteOffset, plain.byteLength);
  } catch {
    // libsodium says no more than that, and a cause would be kept with the arguments in its frames.
    throw new VaultError('tampered', `${what} does not open: it was altered, or sealed for another place`);
  }
}

/** What a stream's pieces are bound to, besides the key that is sealed for the place already. */
function boundTo({ scope, name, version }: Place): Buffer {
  return bind(STREAM, scope, name, version);
}

function idOf(dataKey: Uint8Array): Buffer {
  return Buffer.from(sodium.crypto_kdf_derive_from_key(16, 1, 'data key', dataKey)).subarray(0, KEY_ID_BYTES);
}

function mapKey(dataKeySealed: Uint8Array): string {
  return Buffer.from(dataKeySealed.buffer, dataKeySealed.byteOffset, dataKeySealed.byteLength).toString('base64');
}
