import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { withDeadline } from '../../lib/deadline.js';
import { AppError } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import { Gate } from '../gate.js';
import { joinSignals } from '../../lib/joined-signal.js';
import type {
  DiskBound,
  DiskUse,
  EngineInfo,
  InstanceSpec,
  InstanceState,
  InstanceStats,
  Limits,
  LogLine,
  LogOptions,
  Listed,
  Observed,
  ObservedVolume,
  Runtime,
  RuntimeEvent,
} from '../runtime.js';
import { launch, SHIM } from './launch.js';
import { readLogFiles } from './log-files.js';
import { bootId, signal as send, statsOf } from './proc.js';
import { isUp, type Standing, standingOf } from './standing.js';
import { type InstanceRecord, Store } from './store.js';
import { type Glimpse, Watcher } from './watcher.js';

export interface ProcessRuntimeOptions {
  installationId: string;
  /** Where instances, their logs and volumes are kept; also what outlives Berth and is found again. */
  dataDir: string;
  /** The gateway's bundled program. */
  gatewayPath: string;
  log: Log;
  /** Lets agents run a shell and fetch URLs. They can then read whatever this machine's user can, Berth's keys included. */
  allowTools?: boolean;
}

/** How long what a signal asks for may take. */
const SETTLE_MS = 10_000;

/**
 * Instances as processes of this machine's user, without any isolation: for trying Berth where there is no container engine.
 * Each runs under a small shim of its own that outlives Berth; everything known of them is on disk, so a Berth that comes back
 * finds them running. Limits beyond the heap's are not enforced, and `image` and `uid` mean nothing here.
 */
export class ProcessRuntime implements Runtime {
  readonly name = 'process';
  readonly #options: ProcessRuntimeOptions;
  readonly #store: Store;
  readonly #watcher: Watcher;
  readonly #boot = bootId();
  readonly #busy = new Map<string, Gate>();
  readonly #closed = new AbortController();

  constructor(options: ProcessRuntimeOptions) {
    // Instances do not run in Berth's own folder, so nothing may depend on it.
    this.#options = { ...options, gatewayPath: resolve(options.gatewayPath) };
    this.#store = new Store(resolve(options.dataDir));
    this.#watcher = new Watcher(this.#store.states, () => this.#glimpses());
    if (options.allowTools) options.log.warn('agents run shell commands as the user that runs Berth, with no isolation');
  }

  async check(): Promise<EngineInfo> {
    if (!existsSync('/proc/self/stat')) throw new AppError('unavailable', 'the process runtime needs Linux');
    for (const [path, what] of [
      [this.#options.gatewayPath, 'the gateway’s program'],
      [SHIM, 'the process runtime’s shim'],
    ] as const) {
      if (!existsSync(path)) throw new AppError('unavailable', `${what} is missing: ${path}`);
    }
    return { name: 'process', version: process.version };
  }

  async create(spec: InstanceSpec): Promise<Observed> {
    if (spec.installationId !== this.#options.installationId) {
      throw new AppError('internal', `instance ${spec.name} is of another installation`);
    }
    const existing = this.#store.instance(spec.name);
    if (!existing) this.#takeVolume(spec);
    const record = existing ?? this.#store.addInstance(spec);
    if (record.spec.instanceId !== spec.instanceId || !this.#isOwn(record)) {
      throw new AppError('conflict', `the name ${spec.name} is taken, by ${record.spec.instanceId}`);
    }
    return this.#observe(record);
  }

  start(name: string): Promise<void> {
    return this.#alone(name, async () => {
      const record = this.#mustFind(name);
      const { state } = this.#standing(record);
      if (state === 'running') return;
      if (state === 'paused') throw new AppError('conflict', `instance ${name} is paused`);
      await this.#launch(record);
    });
  }

  stop(name: string, graceMs: number): Promise<void> {
    return this.#alone(name, async () => {
      const record = this.#find(name);
      if (record) await this.#end(record, graceMs);
    });
  }

  pause(name: string): Promise<void> {
    return this.#alone(name, () => this.#freeze(name, 'SIGSTOP', 'running', 'paused'));
  }

  unpause(name: string): Promise<void> {
    return this.#alone(name, () => this.#freeze(name, 'SIGCONT', 'paused', 'running'));
  }

  /** A local process has no limits to change; a missing one is an error all the same. */
  async update(name: string, _limits: Limits): Promise<void> {
    if (!this.#find(name)) throw new AppError('not_found', `there is no instance ${name}`);
  }

  remove(name: string): Promise<void> {
    return this.#alone(name, async () => {
      const record = this.#find(name);
      if (!record) return;
      await this.#end(record, 0);
      this.#store.forgetInstance(name);
    });
  }

  async removeVolume(volume: string): Promise<void> {
    if (this.#store.volume(volume)?.installationId !== this.#options.installationId) return;
    if (this.#store.instances().some(({ spec }) => spec.volume === volume)) {
      throw new AppError('conflict', `volume ${volume} is in use`);
    }
    this.#store.forgetVolume(volume);
  }

  async diskBound(): Promise<DiskBound> {
    return { kind: 'soft', why: 'processes write where their user may' };
  }

  async growVolume(): Promise<boolean> {
    return false;
  }

  async diskUse(): Promise<DiskUse | undefined> {
    return undefined;
  }

  async inspect(name: string): Promise<Observed | undefined> {
    const record = this.#find(name);
    return record && this.#observe(record);
  }

  async list(): Promise<{ instances: Listed[]; volumes: ObservedVolume[] }> {
    return {
      instances: this.#own().map((record) => this.#observe(record)),
      volumes: this.#store
        .volumes()
        .filter(({ installationId }) => installationId === this.#options.installationId)
        .map(({ name, deploymentId, createdAt }) => ({ name, deploymentId, createdAt })),
    };
  }

  async stats(name: string): Promise<InstanceStats | undefined> {
    const record = this.#find(name);
    const id = record && this.#standing(record).process;
    return id && statsOf(id);
  }

  async *logs(name: string, options: LogOptions, signal: AbortSignal): AsyncGenerator<LogLine[], void, void> {
    const record = this.#mustFind(name);
    const { life } = this.#standing(record);
    const lives = () => {
      const now = this.#standing(record);
      return now.life === life && isUp(now);
    };
    const joined = joinSignals(signal, this.#closed.signal);
    try {
      yield* readLogFiles(this.#store.folder(name), options, lives, joined.signal);
    } finally {
      joined.release();
    }
  }

  async *events(signal: AbortSignal): AsyncGenerator<RuntimeEvent, void, void> {
    const joined = joinSignals(signal, this.#closed.signal);
    try {
      yield* this.#watcher.read(joined.signal);
    } finally {
      joined.release();
    }
  }

  async close(): Promise<void> {
    this.#closed.abort();
  }

  /** One operation at a time on one instance; what it changed is looked at before the next. */
  async #alone<T>(name: string, work: () => Promise<T>): Promise<T> {
    const gate = this.#busy.get(name) ?? new Gate(1);
    this.#busy.set(name, gate);
    try {
      return await gate.run(async () => {
        try {
          return await work();
        } finally {
          this.#watcher.lookNow();
        }
      });
    } finally {
      if (gate.isIdle) this.#busy.delete(name);
    }
  }

  #launch({ spec }: InstanceRecord): Promise<void> {
    const { gatewayPath, allowTools = false } = this.#options;
    return launch(this.#store, this.#boot, spec, { gatewayPath, allowTools });
  }

  /** Asks it to end, waits, and ends it. */
  async #end(record: InstanceRecord, graceMs: number): Promise<void> {
    const standing = this.#standing(record);
    if (!isUp(standing)) return;
    if (graceMs > 0) {
      send(standing.process, 'SIGTERM');
      if (standing.state === 'paused') send(standing.process, 'SIGCONT', true);
      if (await this.#untilDown(record, graceMs)) return;
    }
    send(this.#standing(record).process, 'SIGKILL', true);
    if (!(await this.#untilDown(record, SETTLE_MS))) {
      throw new AppError('unavailable', `instance ${record.spec.name} does not end`);
    }
  }

  async #untilDown(record: InstanceRecord, timeoutMs: number): Promise<boolean> {
    for (const deadline = Date.now() + timeoutMs; isUp(this.#standing(record)); await sleep(10)) {
      if (Date.now() >= deadline) return false;
    }
    return true;
  }

  async #freeze(name: string, signal: 'SIGSTOP' | 'SIGCONT', from: InstanceState, to: InstanceState): Promise<void> {
    const record = this.#mustFind(name);
    const { state, process } = this.#standing(record);
    if (state === to) return;
    if (state !== from || !send(process, signal, true)) throw new AppError('conflict', `instance ${name} does not run`);
    await withDeadline('waiting for the signal to arrive', SETTLE_MS, async (cut) => {
      while (this.#standing(record).state === from && !cut.aborted) await sleep(1);
    });
  }

  #standing(record: InstanceRecord): Standing {
    return standingOf(this.#store, this.#boot, record.spec.name);
  }

  #observe(record: InstanceRecord): Observed {
    const { name, instanceId, deploymentId, generation } = record.spec;
    const { state, startedAt, exitCode, error } = this.#standing(record);
    const observed: Observed = {
      name,
      runtimeId: record.runtimeId,
      instanceId,
      deploymentId,
      generation,
      state,
      createdAt: record.createdAt,
    };
    if (startedAt !== undefined) observed.startedAt = startedAt;
    if (error !== undefined) observed.error = error;
    return state === 'exited' ? { ...observed, exitCode: exitCode ?? 137, oomKilled: false } : observed;
  }

  #glimpses(): Glimpse[] {
    return this.#own().map((record) => {
      const { name, instanceId, deploymentId } = record.spec;
      const { life, state } = this.#standing(record);
      return { name, instanceId, deploymentId, life, state };
    });
  }

  #takeVolume(spec: InstanceSpec): void {
    const volume = this.#store.addVolume(spec);
    if (volume.installationId !== spec.installationId || volume.deploymentId !== spec.deploymentId) {
      throw new AppError('conflict', `volume ${spec.volume} belongs to something else`);
    }
  }

  #own(): InstanceRecord[] {
    return this.#store.instances().filter((record) => this.#isOwn(record));
  }

  #isOwn(record: InstanceRecord): boolean {
    return record.spec.installationId === this.#options.installationId;
  }

  #find(name: string): InstanceRecord | undefined {
    const record = this.#store.instance(name);
    return record && this.#isOwn(record) ? record : undefined;
  }

  #mustFind(name: string): InstanceRecord {
    const record = this.#find(name);
    if (!record) throw new AppError('not_found', `there is no instance ${name}`);
    return record;
  }
}
