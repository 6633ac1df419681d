import { createHmac } from 'node:crypto';
import sodium from 'libsodium-wrappers';
import { VaultError } from './vault-error.js';

/** What a `Signer` is made of: 32 random bytes. `sodium.ready` must have come, as it has with an open vault. */
export function newSigningSeed(): Buffer {
  return Buffer.from(sodium.randombytes_buf(sodium.crypto_sign_SEEDBYTES));
}

/** Signs (Ed25519) for whoever has the public half, and marks what this installation alone is to know again. */
export class Signer {
  readonly publicKey: Buffer;
  readonly #privateKey: Uint8Array;
  readonly #tagKey: Uint8Array;

  constructor(seed: Uint8Array) {
    if (seed.length !== sodium.crypto_sign_SEEDBYTES) throw new VaultError('malformed', 'the seed of a signing key has 32 bytes');
    const { publicKey, privateKey } = sodium.crypto_sign_seed_keypair(seed);
    this.publicKey = Buffer.from(publicKey);
    this.#privateKey = privateKey;
    this.#tagKey = sodium.crypto_kdf_derive_from_key(32, 1, 'tag key ', seed);
  }

  sign(text: string): Buffer {
    return Buffer.from(sodium.crypto_sign_detached(text, this.#privateKey));
  }

  isSigned(text: string, signature: Uint8Array): boolean {
    if (signature.length !== sodium.crypto_sign_BYTES) return false;
    return sodium.crypto_sign_verify_detached(signature, text, this.publicKey);
  }

  /** HMAC-SHA-256 for one use: nobody without the seed can make it, nor find out by trying what short thing it was made of. */
  tag(use: string, bytes: string | Uint8Array): string {
    return createHmac('sha256', this.#tagKey).update(`${use}\0`).update(bytes).digest('hex');
  }
}
