import type { Generated } from 'kysely';

export interface UsersTable {
  id: string;
  name: string;
  /** Sealed under the user's data key, which a deletion destroys. */
  email: Buffer | null;
  tier: string;
  /** The user's data key, wrapped by the master key. */
  data_key: Buffer;
  /** Set once deletion was asked for; the row goes when nothing of the user is left. */
  deleting_at: Generated<Date | null>;
  version: Generated<number>;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
}

/** What is left of a deleted user. */
export interface DeletionsTable {
  /** SHA-256 of the user id. */
  user_digest: string;
  deleted_at: Generated<Date>;
}
