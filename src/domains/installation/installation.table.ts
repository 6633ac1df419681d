import type { Generated } from 'kysely';

export interface InstallationTable {
  id: string;
  only_row: Generated<boolean>;
  /** First uid of this installation's range. */
  uid_base: number;
  next_uid: number;
  /** The API-key pepper, sealed by the vault. */
  pepper: Buffer;
  /** Proves at start that the master key is the right one. */
  key_check: Buffer;
  created_at: Generated<Date>;
}

export interface ProcessesTable {
  id: string;
  started_at: Generated<Date>;
  heartbeat_at: Generated<Date>;
}
