import type { Kysely } from 'kysely';
import type { Schema } from '../../src/db/schema.js';
import type { Observed, ObservedVolume } from '../../src/runtime/runtime.js';
import type { Action, Call } from './actions.js';
import type { Kind, Step } from './script.js';

export interface Reply {
  status: number;
  /** As JSON where it is some, else as text. */
  body: unknown;
}

/** A way to break something. */
export interface Fault extends Kind {
  strike(step: Step): void | Promise<void>;
}

/** What the simulation happens in: Berth processes on one database and one engine, and all the ways to break them. */
export interface World {
  readonly name: string;
  readonly adminKey: string;
  /** How many Berth processes there are. */
  readonly processes: number;
  /** What users can ask for here. */
  readonly actions: Record<string, Action>;
  readonly faults: Record<string, Fault>;
  /** A way to the database that no fault cuts. */
  readonly db: Kysely<Schema>;
  /** Asks one process; rejects where no answer came. */
  ask(process: number, call: Omit<Call, 'admin'> & { key: string }): Promise<Reply>;
  isUp(process: number): boolean;
  /** Mends all that is broken; each process runs afterwards. */
  heal(): Promise<void>;
  /** What the engine holds of this installation. */
  observe(): Promise<{ instances: Observed[]; volumes: ObservedVolume[] }>;
  /** The instances that have a folder for their link. */
  folders(): Promise<string[]>;
  /** The files of snapshots, as `user/file`. */
  snapshotFiles(): Promise<string[]>;
  /** The numbers of the events that came to the receiver at that URL. */
  receivedAt(url: string): ReadonlySet<number>;
  /** What an instance was told last, where this world can see it. */
  toldTo(instanceId: string): { version: number; agents: { id: string; secrets?: Record<string, string> }[] } | undefined;
  close(): Promise<void>;
}
