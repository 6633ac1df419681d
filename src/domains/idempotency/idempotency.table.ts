import type { Generated } from 'kysely';

/** Requests that came with an `Idempotency-Key`, for 24 hours. Neither the key nor the body is kept, only their digests. */
export interface IdempotencyKeysTable {
  key_digest: string;
  /** The credential that made the request. */
  caller: string;
  route: string;
  body_digest: string;
  /** The run that holds the claim; a run that lost it can no longer settle the row. */
  attempt: string;
  state: 'running' | 'done';
  /** Until then the running request has the row to itself; afterwards its process counts as dead. */
  lease_until: Date | null;
  status: number | null;
  /** The answer, sealed by the vault: it may hold a key shown once. Null where it was too large to keep. */
  answer: Buffer | null;
  /** Deletes the row together with its user. */
  user_id: string | null;
  created_at: Generated<Date>;
}
