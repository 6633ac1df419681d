import { VaultError } from './vault-error.js';

/**
 * How sealed bytes are laid out. The first byte says what they are and in which version of the layout (high digit the version).
 *
 *   data key      0x11 | id of master key, 8 | length of user id, 1 | user id | nonce, 24 | ciphertext and tag, 48
 *   value         0x12 | id of data key, 8   | nonce, 24 | ciphertext and tag, 16 more than the plain bytes
 *   installation  0x13 | id of master key, 8 | nonce, 24 | ciphertext and tag
 *   key check     0x14 | check value of the master key, 32
 *   stream        0x15 | see stream.ts
 *
 * All ciphers are XChaCha20-Poly1305 (IETF), with random nonces. What is bound as additional data: for a data key all bytes
 * before its nonce; for a value its user, scope, name and version; for the installation its name and version; each after its
 * first byte.
 */
export const DATA_KEY = 0x11;
export const VALUE = 0x12;
export const INSTALLATION = 0x13;
export const KEY_CHECK = 0x14;
export const STREAM = 0x15;

export const KEY_ID_BYTES = 8;
export const NONCE_BYTES = 24;
export const TAG_BYTES = 16;

export interface Sealed {
  keyId: Buffer;
  /** Only in a data key. */
  userId: string;
  /** Everything before the nonce. */
  header: Buffer;
  nonce: Buffer;
  ciphertext: Buffer;
}

export function headerOf(kind: number, keyId: Uint8Array, userId?: string): Buffer {
  const head = Buffer.concat([Buffer.of(kind), keyId]);
  if (userId === undefined) return head;
  const user = utf8(userId);
  if (user.length > 255) throw new VaultError('malformed', 'a user id is longer than 255 bytes');
  return Buffer.concat([head, Buffer.of(user.length), user]);
}

export function parseSealed(kind: number, bytes: Uint8Array): Sealed {
  const all = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (all[0] !== kind)
    throw new VaultError('malformed', `sealed bytes begin with ${all[0] ?? 'nothing'} where ${kind} is expected`);
  const userFrom = 1 + KEY_ID_BYTES + 1;
  const headerEnd = kind === DATA_KEY ? userFrom + (all[userFrom - 1] ?? 0) : userFrom - 1;
  if (all.length < headerEnd + NONCE_BYTES + TAG_BYTES) throw new VaultError('malformed', 'sealed bytes are cut short');
  return {
    keyId: all.subarray(1, 1 + KEY_ID_BYTES),
    userId: all.toString('utf8', Math.min(userFrom, headerEnd), headerEnd),
    header: all.subarray(0, headerEnd),
    nonce: all.subarray(headerEnd, headerEnd + NONCE_BYTES),
    ciphertext: all.subarray(headerEnd + NONCE_BYTES),
  };
}

/** Parts as bytes that no other parts encode to: the kind, then each part after its length. */
export function bind(kind: number, ...parts: (string | number)[]): Buffer {
  const pieces: Buffer[] = [Buffer.of(kind)];
  for (const part of parts) {
    if (typeof part === 'number' && !Number.isSafeInteger(part))
      throw new VaultError('malformed', 'a version is no whole number');
    const bytes = utf8(String(part));
    const length = Buffer.alloc(4);
    length.writeUInt32BE(bytes.length);
    pieces.push(length, bytes);
  }
  return Buffer.concat(pieces);
}

function utf8(text: string): Buffer {
  // UTF-8 writes every half of a surrogate pair as the same replacement character: two names would be bound alike.
  if (/\p{Surrogate}/u.test(text)) throw new VaultError('malformed', 'a name holds half a surrogate pair');
  return Buffer.from(text, 'utf8');
}
