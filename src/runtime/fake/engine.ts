import { AppError } from '../../lib/errors.js';
import { type Clock, systemClock } from '../../lib/clock.js';
import { EventQueue } from '../event-queue.js';
import type { InstanceSpec, LogLine, Observed, RuntimeEvent } from '../runtime.js';

export type FakeOperation =
  | 'check'
  | 'create'
  | 'start'
  | 'stop'
  | 'pause'
  | 'unpause'
  | 'remove'
  | 'removeVolume'
  | 'inspect'
  | 'list'
  | 'stats'
  | 'logs'
  | 'update'
  | 'diskBound'
  | 'growVolume'
  | 'diskUse';

export interface FakeFault {
  /** How many calls it strikes; 1 when absent. */
  times?: number;
  /** What is thrown; `unavailable` when absent. */
  error?: Error;
  /** The call does its work and fails only then, as when the connection is cut before the answer. */
  late?: boolean;
  /** Strikes only calls for this instance or volume. */
  only?: string;
}

/** What an instance's program can do, as seen by `onStart`. */
export interface FakeProcess {
  readonly spec: InstanceSpec;
  /** Aborts when the instance ends, however it ends. */
  readonly ended: AbortSignal;
  log(stream: LogLine['stream'], text: string): void;
  exit(code: number): void;
  /** What to do when asked to end. Without it the instance ends with code 0 at once. */
  onTerm(handler: () => void): void;
}

/** One instance of the fake engine. */
export interface FakeInstance {
  spec: InstanceSpec;
  observed: Observed;
  lines: LogLine[];
  /** How many lines were dropped from the beginning of `lines`. */
  dropped: number;
  life: AbortController;
  term: (() => void) | undefined;
  /** Called, once each, when a line is added or the instance ends. */
  watchers: Set<() => void>;
  cpuPeriods: { all: number; throttled: number };
}

export interface FakeVolume {
  name: string;
  installationId: string;
  deploymentId: string;
  createdAt: number;
  /** Where its bound is hard. */
  sizeMib: number | undefined;
  usedBytes: number;
}

interface Armed extends FakeFault {
  left: number;
}

const KEPT_LINES = 10_000;

/**
 * The world that fake runtimes share, as containers share an engine: what it holds outlives them. Tests break it here. It
 * never waits unless told to, so that the same calls always lead to the same end.
 */
export class FakeEngine {
  readonly instances = new Map<string, FakeInstance>();
  readonly volumes = new Map<string, FakeVolume>();
  /** How often each operation was called, failed calls included. */
  readonly calls = new Map<FakeOperation, number>();
  readonly clock: Clock;
  /** How volumes that are made from now on are bounded. */
  bound: 'hard' | 'soft' = 'soft';
  readonly #faults = new Map<FakeOperation, Armed[]>();
  readonly #latency = new Map<FakeOperation, number>();
  readonly #readers = new Set<{ installationId: string; queue: EventQueue }>();
  #down = false;
  #nextId = 1;

  constructor(clock: Clock = systemClock) {
    this.clock = clock;
  }

  /** Makes coming calls of an operation fail. Faults of one operation strike in the order they were given. */
  fail(operation: FakeOperation, fault: FakeFault = {}): void {
    const armed = { ...fault, left: fault.times ?? 1 };
    this.#faults.set(operation, [...(this.#faults.get(operation) ?? []), armed]);
  }

  /** Makes every call of an operation take that long from now on. */
  delay(operation: FakeOperation, latencyMs: number): void {
    this.#latency.set(operation, latencyMs);
  }

  /** Ends all faults and delays that were set, and the engine's absence. */
  heal(): void {
    this.#faults.clear();
    this.#latency.clear();
    if (this.#down) this.comeBack();
  }

  /** The engine is gone: every call throws `unavailable`, and events say nothing. Instances go on. */
  goDown(): void {
    this.#down = true;
    for (const instance of this.instances.values()) this.wakeWatchers(instance);
  }

  /** The engine is back; whoever reads events is told to look at everything. */
  comeBack(): void {
    this.#down = false;
    for (const { queue } of this.#readers) queue.push({ type: 'resync' });
  }

  get isDown(): boolean {
    return this.#down;
  }

  /** Ends an instance as if by itself. */
  die(name: string, how: { exitCode?: number; oomKilled?: boolean } = {}): void {
    const instance = this.instances.get(name);
    if (!instance || !this.isUp(instance)) return;
    if (how.oomKilled) this.announce('oom', instance);
    this.end(instance, how.exitCode ?? (how.oomKilled ? 137 : 1), how.oomKilled ?? false);
  }

  /** Kills a process inside an instance for want of memory; the instance goes on. */
  killChild(name: string): void {
    const instance = this.instances.get(name);
    if (!instance || !this.isUp(instance)) return;
    instance.observed = { ...instance.observed, childOomKilled: true };
    this.announce('oom', instance);
  }

  /** Takes an instance away from outside, as `docker rm -f` does. */
  vanish(name: string): void {
    const instance = this.instances.get(name);
    if (!instance) return;
    if (this.isUp(instance)) this.end(instance, 137, false);
    this.instances.delete(name);
    this.announce('remove', instance);
  }

  /** Takes a volume away from outside, in use or not. */
  loseVolume(name: string): void {
    this.volumes.delete(name);
  }

  /** Runs one call under the faults and delays set for it. */
  async run<T>(operation: FakeOperation, target: string | undefined, work: () => T | Promise<T>): Promise<T> {
    this.calls.set(operation, (this.calls.get(operation) ?? 0) + 1);
    const latencyMs = this.#latency.get(operation);
    if (latencyMs) await new Promise((resolve) => setTimeout(resolve, latencyMs));
    this.throwIfDown();
    const fault = this.#strike(operation, target);
    if (fault && !fault.late) throw errorOf(fault);
    const result = await work();
    if (fault) throw errorOf(fault);
    return result;
  }

  throwIfDown(): void {
    if (this.#down) throw new AppError('unavailable', 'the fake engine is down');
  }

  listen(installationId: string): { queue: EventQueue; stop(): void } {
    const reader = { installationId, queue: new EventQueue() };
    this.#readers.add(reader);
    reader.queue.push({ type: 'resync' });
    return { queue: reader.queue, stop: () => this.#readers.delete(reader) };
  }

  announce(type: Exclude<RuntimeEvent['type'], 'resync'>, { spec }: FakeInstance): void {
    if (this.#down) return;
    const event: RuntimeEvent = { type, name: spec.name, instanceId: spec.instanceId, deploymentId: spec.deploymentId };
    for (const { installationId, queue } of this.#readers) if (installationId === spec.installationId) queue.push(event);
  }

  add(spec: InstanceSpec): FakeInstance {
    const { name, instanceId, deploymentId, generation } = spec;
    const runtimeId = `fake-${this.#nextId++}`;
    const instance: FakeInstance = {
      spec,
      observed: { name, runtimeId, instanceId, deploymentId, generation, state: 'created', createdAt: this.clock.now() },
      lines: [],
      dropped: 0,
      life: new AbortController(),
      term: undefined,
      watchers: new Set(),
      cpuPeriods: { all: 0, throttled: 0 },
    };
    this.instances.set(name, instance);
    return instance;
  }

  isUp(instance: FakeInstance): boolean {
    return instance.observed.state === 'running' || instance.observed.state === 'paused';
  }

  /** Starts an instance's life and gives the program's view of it. */
  begin(instance: FakeInstance): FakeProcess {
    const { runtimeId, createdAt, name, instanceId, deploymentId, generation } = instance.observed;
    const startedAt = this.clock.now();
    instance.observed = { name, runtimeId, instanceId, deploymentId, generation, state: 'running', createdAt, startedAt };
    instance.life = new AbortController();
    instance.term = undefined;
    this.announce('start', instance);
    const life = instance.life;
    return {
      spec: instance.spec,
      ended: life.signal,
      log: (stream, text) => life.signal.aborted || this.#addLine(instance, stream, text),
      exit: (code) => life.signal.aborted || this.end(instance, code, false),
      onTerm: (handler) => (instance.term = handler),
    };
  }

  end(instance: FakeInstance, exitCode: number, oomKilled: boolean): void {
    instance.observed = { ...instance.observed, state: 'exited', exitCode, oomKilled };
    this.announce('die', instance);
    instance.life.abort();
    this.wakeWatchers(instance);
  }

  wakeWatchers(instance: FakeInstance): void {
    const watchers = [...instance.watchers];
    instance.watchers.clear();
    for (const wake of watchers) wake();
  }

  #addLine(instance: FakeInstance, stream: LogLine['stream'], text: string): void {
    instance.lines.push({ time: new Date(this.clock.now()).toISOString(), stream, text });
    if (instance.lines.length > KEPT_LINES) {
      instance.lines.shift();
      instance.dropped++;
    }
    this.wakeWatchers(instance);
  }

  #strike(operation: FakeOperation, target: string | undefined): Armed | undefined {
    const fault = this.#faults.get(operation)?.find((armed) => armed.left > 0 && (!armed.only || armed.only === target));
    if (fault) fault.left--;
    return fault;
  }
}

function errorOf(fault: FakeFault): Error {
  return fault.error ?? new AppError('unavailable', 'the fake engine failed as told');
}
