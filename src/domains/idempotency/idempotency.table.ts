import type { Generated } from 'kysely';

export interface IdempotencyKeysTable {
  /** HMAC of the key the client chose. */
  key_digest: string;
  caller: string;
  route: string;
  body_digest: string;
  state: string;
  lease_until: Date | null;
  status: number | null;
  /** The answer, sealed by the vault: it may hold a key shown once. */
  answer: Buffer | null;
  user_id: string | null;
  created_at: Generated<Date>;
}
