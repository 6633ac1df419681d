import type { Generated } from 'kysely';
import type { AgentSettings, StoredContents } from './archive.schema.js';

export type SnapshotKind = 'manual' | 'scheduled' | 'before_restore' | 'duplicate' | 'last' | 'imported';
export type RestoreKind = 'in_place' | 'duplicate' | 'imported' | 'undelete';

/** A snapshot, wished or there. Its bytes are in a file that is named after it. */
export interface SnapshotsTable {
  id: string;
  user_id: string;
  /** Without a reference: the last one outlives its agent. */
  agent_id: string;
  agent_name: string;
  kind: SnapshotKind;
  state: Generated<'pending' | 'ready' | 'failed'>;
  note: string | null;
  /** Why it failed, or why it waits. */
  reason: string | null;
  /** What its owner had made of the agent when it was asked for. */
  settings: AgentSettings;
  /** Of an agent that is gone: the name of its state on the volume, which deployment's that is, and from which config version on it is kept there. */
  incarnation: string | null;
  deployment_id: string | null;
  config_version: number | null;
  /** Sealed under the user's data key: opens the file. */
  stream_key: Buffer | null;
  /** What is in the file, once it is there. */
  contents: StoredContents | null;
  /** What the file takes on disk; while it is written, what it has taken so far at least. */
  bytes: Generated<number | string>;
  /** Until then a process works on it, or nobody is to look. */
  held_until: Date | null;
  /** It is deleted then. */
  expires_at: Date | null;
  created_at: Generated<Date>;
  taken_at: Date | null;
}

/** What an agent that was deleted had said, a line of the journal each, until it is in the file. */
export interface KeptLinesTable {
  snapshot_id: string;
  user_id: string;
  position: number;
  line: string;
}

/** A state that is put in place, or was. */
export interface RestoresTable {
  id: string;
  user_id: string;
  agent_id: string;
  /** null: a duplicate without state. */
  snapshot_id: string | null;
  /** The snapshot of what was there before, which must be taken first. */
  before_id: string | null;
  kind: RestoreKind;
  state: Generated<'pending' | 'done' | 'failed'>;
  reason: string | null;
  /** To be given to the agent; null where it has them. */
  settings: AgentSettings | null;
  /** What of the settings could not be given to it, and why. */
  left_out: Generated<{ what: string; why: string }[]>;
  /** Turns of the agent that are in its journal no more. */
  turns_removed: number | null;
  actor: string;
  held_until: Date | null;
  created_at: Generated<Date>;
  ended_at: Date | null;
}

/** When snapshots of an agent are taken by themselves: by the clock or by the distance, one of the two. */
export interface SnapshotSchedulesTable {
  agent_id: string;
  user_id: string;
  cron: string | null;
  time_zone: string | null;
  every_s: number | null;
  /** How many of those that it made are kept. */
  keep: number;
  next_at: Date;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
}
