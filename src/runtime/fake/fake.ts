import { AppError } from '../../lib/errors.js';
import { joinSignals } from '../../lib/joined-signal.js';
import type {
  DiskBound,
  DiskUse,
  EngineInfo,
  InstanceSpec,
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
import { FakeEngine, type FakeInstance, type FakeProcess } from './engine.js';

export interface FakeRuntimeOptions {
  installationId: string;
  /** The world to work in; a new, empty one when absent. Give two runtimes the same to let them meet, or to outlive one. */
  engine?: FakeEngine;
  /** Called when an instance starts; where it plays the program, such as a gateway that dials the link. Not waited for. */
  onStart?: (spec: InstanceSpec, process: FakeProcess) => void | Promise<void>;
  /** Called when an instance that this runtime started has ended, however it ended. */
  onStop?: (spec: InstanceSpec) => void | Promise<void>;
}

/** A runtime in memory for tests: deterministic, as fast as its caller, and breakable by way of `engine`. */
export class FakeRuntime implements Runtime {
  readonly name = 'fake';
  readonly engine: FakeEngine;
  readonly #options: FakeRuntimeOptions;
  readonly #closed = new AbortController();

  constructor(options: FakeRuntimeOptions) {
    this.#options = options;
    this.engine = options.engine ?? new FakeEngine();
  }

  check(): Promise<EngineInfo> {
    return this.engine.run('check', undefined, () => ({ name: 'fake', version: '1' }));
  }

  create(spec: InstanceSpec): Promise<Observed> {
    return this.engine.run('create', spec.name, () => {
      const existing = this.engine.instances.get(spec.name);
      if (!existing) {
        this.#addVolume(spec);
        return { ...this.engine.add(structuredClone(spec)).observed };
      }
      if (existing.spec.instanceId !== spec.instanceId || !this.#isOwn(existing)) {
        throw new AppError('conflict', `the name ${spec.name} is taken, by ${existing.spec.instanceId}`);
      }
      return { ...existing.observed };
    });
  }

  start(name: string): Promise<void> {
    return this.engine.run('start', name, () => {
      const instance = this.#mustFind(name);
      if (instance.observed.state === 'running') return;
      if (instance.observed.state === 'paused') throw new AppError('conflict', `instance ${name} is paused`);
      const process = this.engine.begin(instance);
      process.ended.addEventListener('abort', () => void this.#options.onStop?.(instance.spec), { once: true });
      void this.#options.onStart?.(instance.spec, process);
    });
  }

  stop(name: string, graceMs: number): Promise<void> {
    return this.engine.run('stop', name, async () => {
      const instance = this.#find(name);
      if (!instance || !this.engine.isUp(instance)) return;
      if (!instance.term) return this.engine.end(instance, 0, false);
      instance.term();
      await endOrTimeout(instance.life.signal, graceMs);
      if (!instance.life.signal.aborted) this.engine.end(instance, 137, false);
    });
  }

  pause(name: string): Promise<void> {
    return this.engine.run('pause', name, () => this.#turn(this.#mustFind(name), 'running', 'paused', 'pause'));
  }

  unpause(name: string): Promise<void> {
    return this.engine.run('unpause', name, () => this.#turn(this.#mustFind(name), 'paused', 'running', 'unpause'));
  }

  update(name: string, limits: Limits): Promise<void> {
    return this.engine.run('update', name, () => {
      const instance = this.#mustFind(name);
      instance.spec = { ...instance.spec, limits };
    });
  }

  remove(name: string): Promise<void> {
    return this.engine.run('remove', name, () => {
      if (this.#find(name)) this.engine.vanish(name);
    });
  }

  removeVolume(volume: string): Promise<void> {
    return this.engine.run('removeVolume', volume, () => {
      if (this.engine.volumes.get(volume)?.installationId !== this.#options.installationId) return;
      const inUse = [...this.engine.instances.values()].some(({ spec }) => spec.volume === volume);
      if (inUse) throw new AppError('conflict', `volume ${volume} is in use`);
      this.engine.volumes.delete(volume);
    });
  }

  diskBound(): Promise<DiskBound> {
    return this.engine.run('diskBound', undefined, () =>
      this.engine.bound === 'hard' ? { kind: 'hard' } : { kind: 'soft', why: 'nothing holds it' },
    );
  }

  growVolume(volume: string, sizeMib: number): Promise<boolean> {
    return this.engine.run('growVolume', volume, () => {
      const found = this.engine.volumes.get(volume);
      if (found?.sizeMib === undefined) return false;
      found.sizeMib = Math.max(found.sizeMib, sizeMib);
      return true;
    });
  }

  diskUse(volume: string): Promise<DiskUse | undefined> {
    return this.engine.run('diskUse', volume, () => {
      const found = this.engine.volumes.get(volume);
      if (found?.sizeMib === undefined) return undefined;
      return { usedBytes: found.usedBytes, freeBytes: Math.max(0, found.sizeMib * 1024 * 1024 - found.usedBytes) };
    });
  }

  inspect(name: string): Promise<Observed | undefined> {
    return this.engine.run('inspect', name, () => {
      const found = this.#find(name);
      return found && { ...found.observed };
    });
  }

  list(): Promise<{ instances: Listed[]; volumes: ObservedVolume[] }> {
    return this.engine.run('list', undefined, () => ({
      instances: [...this.engine.instances.values()].filter((it) => this.#isOwn(it)).map(({ observed }) => ({ ...observed })),
      volumes: [...this.engine.volumes.values()]
        .filter(({ installationId }) => installationId === this.#options.installationId)
        .map(({ name, deploymentId, createdAt }) => ({ name, deploymentId, createdAt })),
    }));
  }

  stats(name: string): Promise<InstanceStats | undefined> {
    return this.engine.run('stats', name, () => {
      const found = this.#find(name);
      if (!found || !this.engine.isUp(found)) return undefined;
      return { memoryBytes: 32 * 1024 * 1024, cpuSeconds: 0.1, cpuPeriods: { ...found.cpuPeriods } };
    });
  }

  async *logs(name: string, options: LogOptions, signal: AbortSignal): AsyncGenerator<LogLine[], void, void> {
    const instance = await this.engine.run('logs', name, () => this.#mustFind(name));
    const { signal: cut, release } = joinSignals(signal, this.#closed.signal);
    try {
      yield* this.#lines(instance, options, cut);
    } finally {
      release();
    }
  }

  async *#lines(instance: FakeInstance, options: LogOptions, cut: AbortSignal): AsyncGenerator<LogLine[], void, void> {
    const wanted = (line: LogLine) =>
      (!options.stream || line.stream === options.stream) && (!options.since || Date.parse(line.time) >= options.since);
    const ofStream = instance.lines.filter((line) => !options.stream || line.stream === options.stream);
    const tail = ofStream.slice(Math.max(0, ofStream.length - options.tail)).filter(wanted);
    const life = instance.life.signal;
    let next = instance.dropped + instance.lines.length;
    if (cut.aborted) return;
    if (tail.length > 0) yield tail;
    while (options.follow && !cut.aborted) {
      this.engine.throwIfDown();
      const line = instance.lines[Math.max(0, next - instance.dropped)];
      if (line) {
        next = Math.max(next, instance.dropped) + 1;
        if (wanted(line)) yield [line];
      } else if (!this.engine.isUp(instance) || instance.life.signal !== life) return;
      else await changeOrAbort(instance, cut);
    }
  }

  async *events(signal: AbortSignal): AsyncGenerator<RuntimeEvent, void, void> {
    const { queue, stop } = this.engine.listen(this.#options.installationId);
    const joined = joinSignals(signal, this.#closed.signal);
    try {
      yield* queue.read(joined.signal);
    } finally {
      joined.release();
      stop();
    }
  }

  async close(): Promise<void> {
    this.#closed.abort();
  }

  #turn(instance: FakeInstance, from: Observed['state'], to: Observed['state'], event: 'pause' | 'unpause'): void {
    if (instance.observed.state === to) return;
    if (instance.observed.state !== from) throw new AppError('conflict', `instance ${instance.spec.name} does not run`);
    instance.observed = { ...instance.observed, state: to };
    this.engine.announce(event, instance);
  }

  #addVolume(spec: InstanceSpec): void {
    const { volume: name, installationId, deploymentId } = spec;
    if (installationId !== this.#options.installationId) {
      throw new AppError('internal', `instance ${spec.name} is of another installation`);
    }
    const existing = this.engine.volumes.get(name);
    const createdAt = this.engine.clock.now();
    if (!existing)
      this.engine.volumes.set(name, { name, installationId, deploymentId, createdAt, sizeMib: spec.diskMib, usedBytes: 0 });
    else if (existing.installationId !== installationId || existing.deploymentId !== deploymentId) {
      throw new AppError('conflict', `volume ${name} belongs to something else`);
    }
  }

  #isOwn(instance: FakeInstance): boolean {
    return instance.spec.installationId === this.#options.installationId;
  }

  #find(name: string): FakeInstance | undefined {
    const found = this.engine.instances.get(name);
    return found && this.#isOwn(found) ? found : undefined;
  }

  #mustFind(name: string): FakeInstance {
    const found = this.#find(name);
    if (!found) throw new AppError('not_found', `there is no instance ${name}`);
    return found;
  }
}

function endOrTimeout(ended: AbortSignal, timeoutMs: number): Promise<void> {
  if (ended.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, timeoutMs);
    ended.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true });
  });
}

function changeOrAbort(instance: FakeInstance, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const wake = () => {
      signal.removeEventListener('abort', wake);
      instance.watchers.delete(wake);
      resolve();
    };
    instance.watchers.add(wake);
    signal.addEventListener('abort', wake, { once: true });
  });
}
