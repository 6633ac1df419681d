import sodium from 'libsodium-wrappers';
import { VaultError } from './vault-error.js';

/** A key pair (X25519) under whose public half anybody can seal bytes that only the private half opens. */
export interface BoxKeys {
  publicKey: Buffer;
  privateKey: Buffer;
}

export function newBoxKeys(): BoxKeys {
  const { publicKey, privateKey } = sodium.crypto_box_keypair();
  return { publicKey: Buffer.from(publicKey), privateKey: Buffer.from(privateKey) };
}

/** Opens what libsodium's `crypto_box_seal` made for that public key. */
export function openBox({ publicKey, privateKey }: BoxKeys, sealed: Uint8Array): Buffer {
  if (sealed.length < sodium.crypto_box_SEALBYTES) throw new VaultError('malformed', 'a sealed box is cut short');
  try {
    return Buffer.from(sodium.crypto_box_seal_open(sealed, publicKey, privateKey));
  } catch {
    // libsodium says no more than that, and a cause would be kept with the arguments in its frames.
    throw new VaultError('tampered', 'a sealed box does not open: it was altered, or sealed for another key');
  }
}
