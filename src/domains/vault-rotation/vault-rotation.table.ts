import type { Generated } from 'kysely';

/** `preparing`: until every process has the key. `sealing`: everything is sealed anew. `finishing`: the key is the key. */
export type RotationState = 'preparing' | 'sealing' | 'finishing' | 'done';

/** One change of the master key. Keys are named by their ids. */
export interface VaultRotationsTable {
  id: string;
  from_key: string;
  to_key: string;
  state: Generated<RotationState>;
  /** What it waits for. */
  reason: Generated<string | null>;
  /** Things to be sealed anew, as counted at the beginning, and those that are. */
  total: Generated<number>;
  sealed: Generated<number>;
  started_at: Generated<Date>;
  updated_at: Generated<Date>;
  ended_at: Generated<Date | null>;
}

/** What master keys a Berth process has. */
export interface VaultKeyringsTable {
  process_id: string;
  /** Ids, in order, with a space between. */
  known: string;
  sealing: string;
  updated_at: Generated<Date>;
}
