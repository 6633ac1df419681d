import type { Generated } from 'kysely';

export interface SecretsTable {
  id: string;
  user_id: string;
  /** Null: of the user, and so of all its agents. */
  agent_id: string | null;
  /** The agent's id, else the user's: bound into the sealed value together with name and version. */
  scope: string;
  name: string;
  version: number;
  /** Sealed under the user's data key. */
  value: Buffer;
  /** The agent shares its container, and whoever gave it this secret said that this is as wished. */
  shared_confirmed: Generated<boolean>;
  /** When it was last delivered to an instance, and for which agent. */
  last_used_at: Generated<Date | null>;
  last_used_by: Generated<string | null>;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
}

/** One row a user that has, or had, secrets. */
export interface SecretStoresTable {
  user_id: string;
  /** Rises with every change of any of its secrets. */
  version: Generated<number>;
  /** The key pair under which clients may seal values; the private half is sealed under the user's data key. */
  box_id: Generated<string | null>;
  box_public: Generated<Buffer | null>;
  box_private: Generated<Buffer | null>;
}
