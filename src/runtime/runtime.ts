/**
 * The runtime is the driver that makes instances. Berth decides what should exist; a runtime only does the one thing asked of
 * it and says what it sees. Every method is safe to call again after a crash at any instruction, has a deadline of its own, and
 * throws `AppError('unavailable')` when its engine does not answer. One contract suite (`test/runtime/contract.ts`) runs on all.
 */
export interface Runtime {
  readonly name: 'docker' | 'process' | 'fake';

  /** Asks the engine who it is. Throws `unavailable` when it does not answer within the call deadline. */
  check(): Promise<EngineInfo>;

  /**
   * Makes the instance's volume and the instance itself, without starting it. Where an instance of that name exists already and
   * carries this `instanceId`, it is returned as it is; where it carries another, `conflict` is thrown and nothing changes.
   */
  create(spec: InstanceSpec): Promise<Observed>;

  /**
   * Starts a created or exited instance. One that runs already is left alone. `not_found` when there is none. `seen` is what this runtime said of it a
   * moment ago, which spares it a look.
   */
  start(name: string, seen?: Observed): Promise<void>;

  /** Asks the instance to end, then ends it after `graceMs`. One that is gone or not running is left alone. */
  stop(name: string, graceMs: number): Promise<void>;

  /** Freezes a running instance, memory kept. One that is paused already is left alone. */
  pause(name: string): Promise<void>;

  /** Thaws a paused instance. One that runs is left alone. `seen` as with `start`. */
  unpause(name: string, seen?: Observed): Promise<void>;

  /**
   * Changes the limits of an instance that exists, running or not, without a restart. Throws `unprocessable` where it cannot take them as it is,
   * such as less memory than it uses. `not_found` when there is none.
   */
  update(name: string, limits: Limits): Promise<void>;

  /** Removes the instance, running or not; its volume stays. One that is gone is left alone. */
  remove(name: string): Promise<void>;

  /** Removes a deployment's volume and everything in it. One that is gone is left alone; one in use throws `conflict`. */
  removeVolume(volume: string): Promise<void>;

  /**
   * How volumes that are made now can be bounded: `hard` by a file system of their own, which takes so much and no more; `soft` not at all by the
   * runtime, so that somebody has to look. Why not `hard` is said in plain words.
   */
  diskBound(): Promise<DiskBound>;

  /** Makes a volume of `hard` bound larger, never smaller; answers whether it is as large now. Where it cannot be while it is used, it is at a later call. */
  growVolume(volume: string, sizeMib: number): Promise<boolean>;

  /** What a volume of `hard` bound holds; undefined where that cannot be seen now. */
  diskUse(volume: string): Promise<DiskUse | undefined>;

  /** What is known of one instance now, or undefined when there is none of that name. */
  inspect(name: string): Promise<Observed | undefined>;

  /**
   * Every instance and volume of this installation, and nothing else's, whatever state it is in. What it costs grows slowly with their number: it is one
   * look at all, not one at each.
   */
  list(): Promise<{ instances: Listed[]; volumes: ObservedVolume[] }>;

  /** Memory and CPU now; undefined when the instance does not run. */
  stats(name: string): Promise<InstanceStats | undefined>;

  /**
   * The instance's log lines, of this life and earlier ones, as many at once as have come. When following, stays until the instance ends or `signal` aborts;
   * of one that does not run there is nothing to follow. Throws `unavailable` when the engine goes away meanwhile.
   */
  logs(name: string, options: LogOptions, signal: AbortSignal): AsyncIterable<readonly LogLine[]>;

  /**
   * What happens to this installation's instances, as it happens. Ends only with `signal`; yields `resync` once it listens, and
   * again after any gap (the engine went away and came back), upon which the caller must look at everything again.
   */
  events(signal: AbortSignal): AsyncIterable<RuntimeEvent>;

  /** Frees clients, timers and child watchers. Instances go on. */
  close(): Promise<void>;
}

export interface EngineInfo {
  name: string;
  version: string;
}

export type DiskBound = { kind: 'hard' } | { kind: 'soft'; why: string };

export interface DiskUse {
  usedBytes: number;
  freeBytes: number;
}

export interface Limits {
  memoryMib: number;
  /** Thousandths of a core. */
  cpuMillis: number;
  pids: number;
}

/** The full wish for one instance: a pure function of the deployment and the instance row. */
export interface InstanceSpec {
  /** Deterministic per deployment and generation: `berth-<installation>-<deployment>-<generation>`. */
  name: string;
  installationId: string;
  instanceId: string;
  deploymentId: string;
  userId: string;
  generation: number;
  image: string;
  /** The deployment's own uid and gid. */
  uid: number;
  /** Name of the deployment's data volume, mounted at /data. */
  volume: string;
  /** Host folder with the instance's sockets and token, mounted read-only at /run/berth. */
  linkDir: string;
  /** Stable across instances of a deployment. */
  hostname: string;
  limits: Limits;
  /** The size of the volume's own file system, where its bound is `hard`; what there is already is not changed by it. */
  diskMib?: number | undefined;
}

export type InstanceState = 'created' | 'running' | 'paused' | 'exited';

export interface Observed {
  name: string;
  /** The engine's own id (container id, pid). */
  runtimeId: string;
  instanceId: string;
  deploymentId: string;
  generation: number;
  state: InstanceState;
  exitCode?: number;
  oomKilled?: boolean;
  /** Whether a process inside was killed for want of memory since it was started, and the instance went on. */
  childOomKilled?: boolean;
  /** The engine's words when it could not run it. */
  error?: string;
  /** The volume, where it is a file system that has to be mounted while the instance runs. */
  disk?: string;
  /** Milliseconds since the epoch. */
  createdAt: number;
  startedAt?: number;
}

/** What is known of an instance without a look at it: not since when it runs, nor how it ended. */
export type Listed = Pick<Observed, 'name' | 'runtimeId' | 'instanceId' | 'deploymentId' | 'generation' | 'state' | 'createdAt'>;

export interface ObservedVolume {
  name: string;
  deploymentId: string;
  /** Milliseconds since the epoch. */
  createdAt: number;
}

export interface InstanceStats {
  memoryBytes: number;
  cpuSeconds: number;
  /** Of the periods in which it wanted CPU since it was started, and of those in which it was held back. Absent where nobody counts them. */
  cpuPeriods?: { all: number; throttled: number };
}

export interface LogOptions {
  follow: boolean;
  /** Lines from the end; always bounded by the caller. */
  tail: number;
  /** Milliseconds since the epoch; lines at or after it. */
  since?: number;
  stream?: 'stdout' | 'stderr';
}

export interface LogLine {
  /** RFC 3339 with as many digits as the engine gives. */
  time: string;
  stream: 'stdout' | 'stderr';
  text: string;
}

export type RuntimeEvent =
  | { type: 'resync' }
  | { type: 'start' | 'die' | 'oom' | 'pause' | 'unpause' | 'remove'; name: string; instanceId: string; deploymentId: string };
