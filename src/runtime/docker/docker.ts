import { setTimeout as sleep } from 'node:timers/promises';
import type Docker from 'dockerode';
import { AppError, messageOf } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import { Gate } from '../gate.js';
import { joinSignals } from '../../lib/joined-signal.js';
import type {
  DiskBound,
  DiskUse,
  EngineInfo,
  InstanceSpec,
  InstanceStats,
  Limits,
  Listed,
  LogLine,
  LogOptions,
  Observed,
  ObservedVolume,
  Runtime,
  RuntimeEvent,
} from '../runtime.js';
import { Bound } from './bound.js';
import { Disks } from './disks.js';
import { Engine } from './engine.js';
import { EngineEvents } from './events.js';
import { statusOf, unavailable } from './faults.js';
import { logQuery, readLines } from './logs.js';
import {
  observeInspected,
  observeListed,
  readInspect,
  readList,
  readStats,
  readVersion,
  type Inspected,
  type ListedContainer,
} from './observed.js';
import { containerOptions, LABEL, limitOptions } from './options.js';
import { whyUnseen } from './sight.js';
import { Volumes } from './volumes.js';

/** How long each kind of call may take, in milliseconds. */
export interface DockerDeadlines {
  /** Calls that only look: version, inspect, list, stats, the opening of a stream. */
  readMs: number;
  /** create, pause, unpause, remove; and stop beyond its grace. */
  changeMs: number;
  startMs: number;
  /** Waiting for a turn to start, where many start at once. */
  queueMs: number;
  /** Between two questions whether a quiet engine is still there. */
  heartbeatMs: number;
}

export interface DockerRuntimeOptions {
  installationId: string;
  /** As in the environment variable; `unix:///var/run/docker.sock` when absent. */
  dockerHost?: string;
  log: Log;
  deadlines?: Partial<DockerDeadlines>;
  /** Starts at a time. One costs the engine about 300 ms of CPU; more at once only makes all of them slow. */
  startConcurrency?: number;
  /** Where volumes get file systems of their own, if they may; absent: nowhere. */
  disks?: { dir: string; limits: 'auto' | 'hard' | 'soft' };
}

type ContainerCall = (container: Docker.Container, abortSignal: AbortSignal) => Promise<unknown>;

const DEADLINES: DockerDeadlines = { readMs: 10_000, changeMs: 30_000, startMs: 60_000, queueMs: 120_000, heartbeatMs: 10_000 };

/**
 * Instances as containers of a Docker engine. A container or volume without this installation's labels does not exist for any
 * method but `create`, which refuses to take its name; so nothing foreign is ever touched.
 */
export class DockerRuntime implements Runtime {
  readonly name = 'docker';
  readonly #installationId: string;
  readonly #engine: Engine;
  readonly #deadlines: DockerDeadlines;
  readonly #volumes: Volumes;
  readonly #bound: Bound;
  readonly #starts: Gate;
  readonly #log: Log;
  readonly #closed = new AbortController();
  #lastAsked: { atMs: number; answer: Promise<void> } | undefined;

  constructor(options: DockerRuntimeOptions) {
    this.#installationId = options.installationId;
    this.#engine = new Engine(options.dockerHost);
    this.#deadlines = { ...DEADLINES, ...options.deadlines };
    const disks = options.disks && new Disks(options.disks.dir);
    this.#volumes = new Volumes(this.#engine, this.#installationId, this.#deadlines, disks);
    this.#bound = new Bound(disks, options, (folder) => whyUnseen(this.#engine, folder, this.#deadlines.readMs));
    this.#starts = new Gate(options.startConcurrency ?? 3);
    this.#log = options.log;
  }

  async check(): Promise<EngineInfo> {
    // The types do not know that it takes options.
    type Asked = { version(options: { abortSignal: AbortSignal }): Promise<unknown> };
    const version = await this.#look('asking its version', (docker, abortSignal) =>
      (docker as unknown as Asked).version({ abortSignal }),
    );
    return { name: 'docker', version: readVersion(version) };
  }

  async create(spec: InstanceSpec): Promise<Observed> {
    if (spec.installationId !== this.#installationId) {
      throw new AppError('internal', `instance ${spec.name} is of another installation`);
    }
    const existing = await this.#existing(spec);
    if (existing) return existing;
    await this.#volumes.create(spec);
    try {
      await this.#engine.call('creating the instance', this.#deadlines.changeMs, (docker, abortSignal) =>
        docker.createContainer({ ...containerOptions(spec), abortSignal }),
      );
    } catch (error) {
      if (statusOf(error) !== 409) throw error;
    }
    return this.#created(spec);
  }

  async start(name: string, seen?: Observed): Promise<void> {
    const { runtimeId, state, disk } = seen ?? (await this.#mustFind(name));
    if (state === 'running') return;
    if (state === 'paused') throw new AppError('conflict', `instance ${name} is paused`);
    // Not mounted any more where it was stopped, or the host was started anew.
    if (disk !== undefined) await this.#volumes.disks.mount(disk);
    const start: ContainerCall = (container, abortSignal) => container.start({ abortSignal });
    await this.#queueForStart(() => this.#change('starting the instance', this.#deadlines.startMs, runtimeId, start, [304]));
  }

  async stop(name: string, graceMs: number): Promise<void> {
    const found = await this.inspect(name);
    if (!found || !isUp(found)) return;
    const t = Math.ceil(Math.max(0, graceMs) / 1000);
    const stop: ContainerCall = (container, abortSignal) => container.stop({ t, abortSignal });
    await this.#change('stopping the instance', t * 1000 + this.#deadlines.changeMs, found.runtimeId, stop, [304, 404]);
    await this.#releaseDisk(found.disk);
  }

  async pause(name: string): Promise<void> {
    const { runtimeId, state } = await this.#mustFind(name);
    if (state === 'paused') return;
    if (state !== 'running') throw new AppError('conflict', `instance ${name} does not run`);
    const pause: ContainerCall = (container, abortSignal) => container.pause({ abortSignal });
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#change('pausing the instance', this.#deadlines.changeMs, runtimeId, pause);
      } catch (error) {
        if (/already paused/i.test(messageOf(error))) return;
        // Under load the cgroup freezer gives up now and then; it works a moment later.
        if (attempt === 5 || !/unable to freeze/i.test(messageOf(error))) throw error;
        await sleep(50 * attempt);
      }
    }
  }

  async unpause(name: string, seen?: Observed): Promise<void> {
    const { runtimeId, state } = seen ?? (await this.#mustFind(name));
    if (state === 'running') return;
    if (state !== 'paused') throw new AppError('conflict', `instance ${name} does not run`);
    const unpause: ContainerCall = (container, abortSignal) => container.unpause({ abortSignal });
    try {
      await this.#change('unpausing the instance', this.#deadlines.changeMs, runtimeId, unpause);
    } catch (error) {
      if (!/is not paused/i.test(messageOf(error))) throw error;
      if (!isUp(await this.#mustFind(name))) throw new AppError('conflict', `instance ${name} does not run`, { cause: error });
    }
  }

  async update(name: string, limits: Limits): Promise<void> {
    const { runtimeId } = await this.#mustFind(name);
    const update: ContainerCall = (container, abortSignal) => container.update({ ...limitOptions(limits), abortSignal });
    try {
      await this.#change('changing the limits of the instance', this.#deadlines.changeMs, runtimeId, update);
    } catch (error) {
      if (statusOf(error) === undefined) throw error;
      throw new AppError('unprocessable', `the engine does not change the limits: ${messageOf(error)}`, { cause: error });
    }
  }

  async remove(name: string): Promise<void> {
    const found = await this.inspect(name);
    if (!found) return;
    // `v` takes along only the nameless volumes that an image may have asked for.
    const remove: ContainerCall = (container, abortSignal) => container.remove({ force: true, v: true, abortSignal });
    await this.#change('removing the instance', this.#deadlines.changeMs, found.runtimeId, remove, [404, 409]);
    await this.#untilGone(name, found.runtimeId);
    await this.#releaseDisk(found.disk);
  }

  removeVolume(volume: string): Promise<void> {
    return this.#volumes.remove(volume);
  }

  diskBound(): Promise<DiskBound> {
    return this.#bound.get();
  }

  growVolume(volume: string, sizeMib: number): Promise<boolean> {
    return this.#volumes.disks.grow(volume, sizeMib);
  }

  diskUse(volume: string): Promise<DiskUse | undefined> {
    return this.#volumes.disks.use(volume);
  }

  async inspect(name: string): Promise<Observed | undefined> {
    const answer = await this.#inspectAny(name);
    const observed = answer && observeInspected(answer, this.#installationId);
    // The engine also finds by the beginning of an id; an instance has one name and one id.
    return observed?.name === name || observed?.runtimeId === name ? observed : undefined;
  }

  async list(): Promise<{ instances: Listed[]; volumes: ObservedVolume[] }> {
    const filters = { label: [`${LABEL.installation}=${this.#installationId}`] };
    const [containers, volumes] = await Promise.all([
      this.#look('listing instances', (docker, abortSignal) => docker.listContainers({ all: true, filters, abortSignal })),
      this.#volumes.list(),
    ]);
    return { instances: readList(containers).flatMap((item) => this.#observe(item) ?? []), volumes };
  }

  async stats(name: string): Promise<InstanceStats | undefined> {
    const found = await this.inspect(name);
    if (!found || !isUp(found)) return undefined;
    try {
      const answer = await this.#look('reading stats', (docker, abortSignal) => {
        const oneShot = { stream: false as const, 'one-shot': true, abortSignal };
        return docker.getContainer(found.runtimeId).stats(oneShot);
      });
      return readStats(answer);
    } catch (error) {
      if (statusOf(error) === 404) return undefined;
      throw error;
    }
  }

  async *logs(name: string, options: LogOptions, signal: AbortSignal): AsyncGenerator<LogLine[], void, void> {
    const { runtimeId } = await this.#mustFind(name);
    const { signal: cut, release } = joinSignals(signal, this.#closed.signal);
    const silent = () => Promise.reject(unavailable('the container engine stopped in the middle of the logs'));
    const watch = options.follow
      ? { silenceMs: this.#deadlines.heartbeatMs, onSilence: () => this.#isThere() }
      : { silenceMs: this.#deadlines.readMs, onSilence: silent };
    try {
      const path = `/containers/${runtimeId}/logs`;
      const source = await this.#engine.open('opening the logs', this.#deadlines.readMs, path, logQuery(options), cut);
      yield* readLines(source, watch, cut);
    } catch (error) {
      if (!cut.aborted) throw error;
    } finally {
      release();
    }
  }

  async *events(signal: AbortSignal): AsyncGenerator<RuntimeEvent, void, void> {
    const events = new EngineEvents({
      installationId: this.#installationId,
      log: this.#log,
      open: (query, cut) => this.#engine.open('opening the events', this.#deadlines.readMs, '/events', query, cut),
      ping: () => this.check(),
      heartbeatMs: this.#deadlines.heartbeatMs,
    });
    const joined = joinSignals(signal, this.#closed.signal);
    try {
      yield* events.read(joined.signal);
    } finally {
      joined.release();
    }
  }

  async close(): Promise<void> {
    this.#closed.abort();
    this.#engine.close();
  }

  /** Asked for many silent streams at once, and so for all of them together: half a heartbeat ago is now. */
  #isThere(): Promise<void> {
    const nowMs = performance.now();
    if (!this.#lastAsked || nowMs - this.#lastAsked.atMs > this.#deadlines.heartbeatMs / 2)
      this.#lastAsked = { atMs: nowMs, answer: this.check().then(() => undefined) };
    return this.#lastAsked.answer;
  }

  #look<T>(what: string, work: (docker: Docker, abortSignal: AbortSignal) => Promise<T>): Promise<T> {
    return this.#engine.call(what, this.#deadlines.readMs, work);
  }

  /** One change of a container, by its id; a refusal with a status of `fine` says that there was nothing to do. */
  async #change(what: string, timeoutMs: number, runtimeId: string, work: ContainerCall, fine: number[] = []): Promise<void> {
    try {
      await this.#engine.call(what, timeoutMs, (docker, abortSignal) => work(docker.getContainer(runtimeId), abortSignal));
    } catch (error) {
      if (!fine.includes(statusOf(error) ?? 0)) throw error;
    }
  }

  /** Only the wait is cut at its deadline; a start that has its turn has a deadline of its own. */
  async #queueForStart(start: () => Promise<void>): Promise<void> {
    const wait = new AbortController();
    const timer = setTimeout(() => wait.abort(unavailable('too many instances wait to start')), this.#deadlines.queueMs);
    try {
      await this.#starts.run(() => {
        clearTimeout(timer);
        return start();
      }, wait.signal);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Once no container uses it any more: the one that takes another's place has the same. */
  async #releaseDisk(volume: string | undefined): Promise<void> {
    if (volume === undefined) return;
    const filters = { label: [`${LABEL.disk}=${volume}`], status: ['running', 'paused'] };
    const users = await this.#look('listing instances', (docker, abortSignal) => docker.listContainers({ filters, abortSignal }));
    if (readList(users).length === 0) await this.#volumes.disks.release(volume);
  }

  async #mustFind(name: string): Promise<Observed> {
    const found = await this.inspect(name);
    if (!found) throw new AppError('not_found', `there is no instance ${name}`);
    return found;
  }

  /** The instance of that name if it is the spec's own; throws `conflict` where anything else has the name. */
  async #existing(spec: InstanceSpec): Promise<Observed | undefined> {
    const answer = await this.#inspectAny(spec.name);
    if (!answer) return undefined;
    const found = observeInspected(answer, this.#installationId);
    if (found?.instanceId === spec.instanceId) return found;
    throw new AppError('conflict', `the name ${spec.name} is taken, by ${found?.instanceId ?? 'something that is not Berth’s'}`);
  }

  /** The instance just created, by this call or one beside it: the engine takes a name a moment before it shows who has it. */
  async #created(spec: InstanceSpec): Promise<Observed> {
    for (let attempt = 1; attempt <= 40; attempt++) {
      const found = await this.#existing(spec);
      if (found) return found;
      await sleep(25);
    }
    throw new AppError('conflict', `the name ${spec.name} is taken by something that cannot be seen`);
  }

  async #inspectAny(nameOrId: string): Promise<Inspected | undefined> {
    try {
      const answer = await this.#look('inspecting the instance', (docker, abortSignal) =>
        docker.getContainer(encodeURIComponent(nameOrId)).inspect({ abortSignal }),
      );
      return readInspect(answer);
    } catch (error) {
      if (statusOf(error) === 404) return undefined;
      throw error;
    }
  }

  #observe(item: ListedContainer): Listed | undefined {
    const listed = observeListed(item, this.#installationId);
    if (!listed)
      this.#log.warn({ container: item.Id }, 'a container has this installation’s label but not the others; left alone');
    return listed;
  }

  /** A removal that another call began answers 409 at once and goes on. */
  async #untilGone(name: string, runtimeId: string): Promise<void> {
    const deadline = AbortSignal.timeout(this.#deadlines.changeMs);
    while ((await this.inspect(runtimeId)) !== undefined) {
      if (deadline.aborted) throw unavailable(`the container engine did not remove instance ${name} in time`);
      await sleep(25);
    }
  }
}

function isUp(observed: Observed): boolean {
  return observed.state === 'running' || observed.state === 'paused';
}
