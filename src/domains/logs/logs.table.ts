import type { Generated } from 'kysely';

/** What a user's instances print, as one stream. The process that holds the lease is the one that collects and writes. */
export interface LogStreamsTable {
  user_id: string;
  lease_owner: string | null;
  lease_until: Date | null;
  /** bigint: text from the driver. Rises with every lease. */
  lease_epoch: Generated<string>;
  /** Numbers of segments are given out once. */
  last_segment: Generated<number>;
  /** Why no lines come at the moment; null while they do. */
  waiting: string | null;
}

/** A file of a stream: `<LOG_DIR>/<user>/<number>.log`. */
export interface LogSegmentsTable {
  user_id: string;
  number: number;
  /** bigint: text from the driver. Of one that is sealed nothing beyond is read. */
  bytes: Generated<string | number>;
  lines: Generated<string | number>;
  gaps: Generated<number>;
  /** Times of its lines, earliest and latest. */
  from_at: Date | null;
  to_at: Date | null;
  opened_at: Generated<Date>;
  /** Null while it is written. */
  sealed_at: Date | null;
}
