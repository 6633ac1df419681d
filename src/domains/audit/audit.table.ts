import type { ColumnType, Generated } from 'kysely';

/**
 * One thing that is known: an act has begun, an act has ended, something was refused, a user was erased. Only ever added; what changes
 * later is its place in the chain, once, and what an erasure takes out.
 */
export interface AuditEntriesTable {
  id: string;
  kind: 'begun' | 'ended' | 'refused' | 'erased';
  /** The entry that began it; of what is said in one entry, its own id. */
  act: string;
  at: Date;
  operation: string;
  /** `actorOf(caller)`, `anonymous` or `berth`. Like the next three, `sha256:…` once its user was erased. */
  actor: string;
  user_id: string | null;
  resource: string | null;
  request_id: string | null;
  status: number | null;
  code: string | null;
  /** How often it happened alike, where more than once stand in one entry. */
  count: Generated<number>;
  request_digest: string | null;
  before_digest: string | null;
  after_digest: string | null;
  /** Address and path, sealed under the user's data key. */
  personal: Buffer | null;
  personal_digest: string | null;
  /** SHA-256 of all of the above, personal things by their digests. */
  digest: string;
  /** Of the digest: that a Berth process wrote it, before it is in the chain. */
  mac: string;
  /** Its place in the chain. */
  seq: ColumnType<string | number | null, number | null | undefined, number | null>;
  hash: string | null;
}

/** The one head of the chain. */
export interface AuditHeadsTable {
  only_row: Generated<boolean>;
  seq: string | number;
  hash: string;
  at: Date;
  signature: Buffer;
}

export interface AuditKeysTable {
  only_row: Generated<boolean>;
  public_key: Buffer;
  /** Of the signing key, sealed by the vault. */
  seed: Buffer;
  /** Seals what is personal and nobody's of Berth: the addresses of admins and of strangers. */
  data_key: Buffer;
}

/** Acts that have begun and not ended. */
export interface AuditOpenTable {
  act: string;
  process_id: string;
  operation: string;
  actor: string;
  user_id: string | null;
}

/** That a user was erased, signed. */
export interface AuditReceiptsTable {
  user_digest: string;
  entry_id: string;
  at: Date;
  signature: Buffer;
}
