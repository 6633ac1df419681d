/**
 * `wrong_key`: sealed under a key that is not in the key ring. `tampered`: altered, or sealed for another place. `malformed`: not
 * something this vault made, or nothing it can seal.
 */
export type VaultFailure = 'wrong_key' | 'tampered' | 'malformed';

/** Never carries key material or plain bytes. */
export class VaultError extends Error {
  override readonly name = 'VaultError';
  readonly reason: VaultFailure;

  constructor(reason: VaultFailure, message: string) {
    super(message);
    this.reason = reason;
  }
}
