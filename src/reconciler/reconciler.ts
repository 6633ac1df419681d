import { setMaxListeners } from 'node:events';
import { LeaseLost, type Lease, type Leased } from '../domains/deployments/work.js';
import type { Vitals } from '../domains/deployments/vitals.js';
import type { Bus } from '../events/bus.js';
import { backoffMs } from '../lib/backoff.js';
import { type Clock, systemClock } from '../lib/clock.js';
import { AppError, messageOf, NotSent } from '../lib/errors.js';
import type { Log } from '../lib/log.js';
import { jobMeter, Loop } from '../lib/loop.js';
import { type Meters, NO_METERS } from '../lib/meters.js';
import type { Observed, RuntimeEvent } from '../runtime/runtime.js';
import { Apply, type Hands, type Next, STEADY_MS } from './apply.js';
import { Sweep } from './observe.js';
import { plan, type Situation, type Step } from './plan.js';
import { Progress } from './progress.js';
import { type Noted, reconcilerMeters } from './reconciler-meters.js';
import { isDiskBehind, isNowhereSmaller, isOverfull, limitsOf, limitsText, specHashOf, wishOf } from './spec.js';
import { Unlinked } from './unlinked.js';
import { watch } from './watching.js';

export interface ReconcilerOptions extends Hands {
  bus: Bus;
  log: Log;
  vitals: Pick<Vitals, 'noteOom'>;
  orphanGraceMs: number;
  /** How long one that took another's place must have run before the other is let go. */
  probationMs: number;
  clock?: Clock;
  meters?: Meters;
  /** Deployments worked on at once by this process. */
  concurrency?: number;
  passEveryMs?: number;
  sweepEveryMs?: number;
}

/** How a pass ended: after how many milliseconds to look again (never, if undefined), and whether that is the pause after a failure. */
interface End {
  dueInMs: number | undefined;
  failed: boolean;
}

/** How a pass goes on after a step: what is known of the container, so that it need not be looked at. */
type GoOn = Exclude<Next, { lookAgainInMs: unknown }>;

/** More steps than any real path has: a plan that turns in circles is cut and backed off. */
const STEPS_AT_MOST = 40;
/** The runtime starts few at once; most of the others only look. */
const CONCURRENCY = 16;
/** How the reason begins where the engine or a gateway did not answer. */
const UNAVAILABLE = 'engine or gateway unavailable';
const BACKOFF = { firstMs: 500, maxMs: 60_000 };
const RENEW_EVERY_MS = 3_000;
const LINK_AGAIN_MS = 250;
const AT_ONCE: End = { dueInMs: 0, failed: false };

/**
 * Makes what is wished true, one safe step after another. It takes no input: each pass claims what is due and works on it; events only say
 * that now is a good time. Killed at any instruction, the next pass of any process goes on from what the database and the runtime show.
 */
export class Reconciler {
  readonly #options: ReconcilerOptions;
  readonly #apply: Apply;
  readonly #clock: Clock;
  readonly #sweep: Sweep;
  readonly #noted: Noted;
  readonly #loops: Loop[];
  readonly #passes: Loop;
  readonly #busy = new Map<string, Promise<void>>();
  /** Of those: whose link came or went since their pass looked. */
  readonly #relinked = new Set<string>();
  readonly #unlinked = new Unlinked(() => performance.now());
  readonly #stop = new AbortController();
  #watching: Promise<void> | undefined;
  #unsubscribe: (() => void) | undefined;

  constructor(options: ReconcilerOptions) {
    this.#options = options;
    // Each deployment that is worked on listens to it, several times over.
    setMaxListeners(0, this.#stop.signal);
    this.#clock = options.clock ?? systemClock;
    this.#apply = new Apply(options);
    const { work, runtime, links, log, orphanGraceMs, meters = NO_METERS } = options;
    this.#noted = reconcilerMeters(meters, () => this.#busy.size);
    const note = jobMeter(meters);
    this.#sweep = new Sweep({ work, runtime, links, log, orphanGraceMs, now: () => performance.now() });
    this.#passes = new Loop({ name: 'reconcile', everyMs: options.passEveryMs ?? 1_000, run: () => this.pass() }, log, note);
    this.#loops = [
      this.#passes,
      new Loop({ name: 'sweep', everyMs: options.sweepEveryMs ?? 30_000, run: () => this.#sweep.run() }, log, note),
      new Loop({ name: 'renew leases', everyMs: RENEW_EVERY_MS, run: () => work.renew([...this.#busy.keys()]) }, log, note),
    ];
  }

  start(): void {
    // What is worked on here is claimed by nobody until that ends, and then there is a pass.
    this.#unsubscribe = this.#options.bus.subscribe('deployment', (id) => this.#busy.has(id) || this.#passes.wake());
    const { runtime, log } = this.#options;
    this.#watching = watch({ runtime, log, take: (event) => this.#note(event) }, this.#stop.signal);
    for (const loop of this.#loops) loop.start();
  }

  /** Ends the loops and waits for the work in hand. */
  async stop(): Promise<void> {
    this.#unsubscribe?.();
    this.#stop.abort();
    await Promise.all(this.#loops.map((loop) => loop.stop()));
    await Promise.all(this.#busy.values());
    await this.#watching;
  }

  /** Claims what is due, as far as there are hands, and begins to work on it. */
  async pass(): Promise<void> {
    const free = (this.#options.concurrency ?? CONCURRENCY) - this.#busy.size;
    if (free <= 0 || this.#stop.signal.aborted) return;
    const { work } = this.#options;
    const leases = await work.claim(free);
    const found = await work.readAll(leases);
    for (const lease of leases) {
      const { deploymentId } = lease;
      // Lost and won again, as after a long sleep of the machine: what this process still does under the old lease ends first.
      const before = this.#busy.get(deploymentId);
      const done = (before ?? Promise.resolve())
        .then(() => this.#workOn(lease, before ? undefined : found.get(deploymentId)))
        .finally(() => {
          if (this.#busy.get(deploymentId) === done) this.#busy.delete(deploymentId);
          if (this.#relinked.delete(deploymentId)) this.noteLink(deploymentId);
          this.#passes.wake();
        });
      this.#busy.set(deploymentId, done);
    }
  }

  /** A link of a deployment came or went: it is looked at, by the pass that is at work on it where there is one. */
  noteLink(deploymentId: string): void {
    const { work, log } = this.#options;
    if (this.#busy.has(deploymentId)) this.#relinked.add(deploymentId);
    else
      work.lookAgainSoon(deploymentId).catch((error: unknown) => log.error({ err: error }, 'a deployment could not be marked'));
  }

  async #workOn(lease: Lease, found: Leased | undefined): Promise<void> {
    const { work, log } = this.#options;
    const beganMs = performance.now();
    const note = (outcome: 'done' | 'failed' | 'lost') => this.#noted.work({ outcome }, (performance.now() - beganMs) / 1000);
    try {
      const leased = found ?? (await work.read(lease));
      const end = await this.#toTheEnd(lease, leased);
      const isNews = this.#relinked.delete(lease.deploymentId) && !end.failed;
      await work.release(lease, leased, isNews ? AT_ONCE : end);
      note(end.failed ? 'failed' : 'done');
    } catch (error) {
      note('lost');
      if (error instanceof LeaseLost) return;
      log.error({ deployment: lease.deploymentId, err: error }, `reconciling failed: ${messageOf(error)}`);
    }
  }

  /** Steps until settled, waiting or failed. */
  async #toTheEnd(lease: Lease, first: Leased): Promise<End> {
    const progress = new Progress(this.#clock, first.deployment.stages, this.#noted.stage);
    let leased = first;
    let observed: Observed | undefined;
    let goOn: GoOn = 'again';
    try {
      for (let n = 0; n < STEPS_AT_MOST && !this.#stop.signal.aborted; n++) {
        if (goOn === 'again') observed = await this.#look(leased);
        else if (goOn !== 'unchanged') observed = goOn.goOnWith;
        const step = await this.#nextStep(leased, observed);
        this.#noted.step({ step: step.do });
        const next = await this.#take(step, lease, leased, progress, observed);
        if (typeof next === 'object' && 'dueInMs' in next) return next;
        goOn = next;
        leased = await this.#options.work.read(lease);
      }
      if (this.#stop.signal.aborted) return AT_ONCE;
      throw new Error(`no end after ${STEPS_AT_MOST} steps`);
    } catch (error) {
      if (error instanceof LeaseLost) throw error;
      if (this.#stop.signal.aborted) return AT_ONCE;
      return this.#failed(lease, leased, progress, reasonOf(error), error);
    }
  }

  async #look({ instance }: Leased): Promise<Observed | undefined> {
    return instance && this.#options.runtime.inspect(instance.name);
  }

  async #nextStep(leased: Leased, observed: Observed | undefined): Promise<Step> {
    const { deployment, instance } = leased;
    const limits = limitsText(limitsOf(deployment));
    const incoming = await this.#lookAtIncoming(leased);
    this.#relinked.delete(deployment.id);
    return plan({
      desired: deployment.desired,
      filesAwake: (deployment.files_ms_left ?? 0) > 0,
      rest: deployment.rest,
      specHash: specHashOf(leased, this.#options.image),
      limits,
      limitsGrow: instance !== undefined && isNowhereSmaller(limits, instance.limits),
      isRollable: deployment.user_id !== null,
      rollWaitMs: deployment.roll_failed === wishOf(leased, this.#options.image) ? (deployment.roll_ms_left ?? 0) : 0,
      probationMs: this.#options.probationMs,
      incoming,
      configVersion: deployment.config_version,
      hasRoom: deployment.room_mib !== null,
      diskBehind: isDiskBehind(deployment),
      mustStopWriting: isOverfull(deployment) && (instance?.started_ms_ago ?? 0) > (deployment.disk_full_ms_ago ?? 0),
      instance: instance && situationOf(instance),
      observed: observed && instance && observed.instanceId === instance.id ? observed : undefined,
      ...this.#lookAtLink(instance?.id),
    });
  }

  async #lookAtIncoming({ incoming, agents }: Leased): Promise<Situation['incoming']> {
    if (!incoming) return undefined;
    const observed = await this.#options.runtime.inspect(incoming.name);
    const handed = agents.filter((agent) => agent.served_by === incoming.id).length;
    return {
      ...situationOf(incoming),
      observed: observed?.instanceId === incoming.id ? observed : undefined,
      ...this.#lookAtLink(incoming.id),
      handed,
      left: agents.length - handed,
      handedMsAgo: incoming.handed_ms_ago ?? 0,
    };
  }

  #lookAtLink(instanceId: string | undefined): { linkUp: boolean; unlinkedMs: number } {
    if (instanceId === undefined) return { linkUp: false, unlinkedMs: 0 };
    const linkUp = this.#options.links.get(instanceId) !== undefined;
    return { linkUp, unlinkedMs: this.#unlinked.look(instanceId, linkUp) };
  }

  async #take(step: Step, lease: Lease, leased: Leased, progress: Progress, seen?: Observed): Promise<GoOn | End> {
    if ('of' in step && step.of === 'incoming' && step.do !== 'admit') return this.#takeIncoming(step, lease, leased, progress);
    if (step.do !== 'end') {
      const next = await this.#apply.step(step, lease, leased, progress, this.#stop.signal, seen);
      if (typeof next === 'object' && 'lookAgainInMs' in next) return { dueInMs: next.lookAgainInMs, failed: false };
      // What is known is of the incoming one; it is the current one that is looked at first.
      return step.do === 'admit' && step.of === 'incoming' ? 'again' : next;
    }
    const goesOn = leased.deployment.desired === 'running' && leased.deployment.rest === null && !step.failed;
    if (goesOn) {
      // Ending takes as long as its turns have to finish: the status says so from the beginning.
      const replacing = { state: 'deploying', stage: 'queued', stages: progress.close(), reason: step.why } as const;
      await this.#options.work.enter(lease, replacing);
    }
    // What is made anew at once keeps its place on the host.
    await this.#apply.end(lease, leased, step, goesOn);
    if (!step.failed) return 'again';
    return this.#failed(lease, leased, progress, step.why);
  }

  /** A step of the instance that is to take the other's place: if it cannot be taken, it is that one that goes. */
  async #takeIncoming(
    step: Exclude<Step, { do: 'end' }>,
    lease: Lease,
    leased: Leased,
    progress: Progress,
  ): Promise<'again' | End> {
    try {
      const next = await this.#apply.step(step, lease, { ...leased, instance: leased.incoming }, progress, this.#stop.signal);
      return typeof next === 'object' && 'lookAgainInMs' in next ? { dueInMs: next.lookAgainInMs, failed: false } : 'again';
    } catch (error) {
      if (error instanceof LeaseLost || this.#stop.signal.aborted) throw error;
      // Its link went a moment ago: the next look tells whether it comes back or the instance is gone.
      if (error instanceof NotSent) return { dueInMs: LINK_AGAIN_MS, failed: false };
      const why = `the new instance was given up: ${reasonOf(error)}`;
      this.#options.log.warn({ deployment: lease.deploymentId, err: error }, why);
      await this.#apply.step({ do: 'undo', why, failed: true, graceMs: 0 }, lease, leased, progress, this.#stop.signal);
      return 'again';
    }
  }

  /** Counts a failure, says why in plain words, and answers the pause before the next attempt. */
  async #failed(lease: Lease, leased: Leased, progress: Progress, reason: string, cause?: unknown): Promise<End> {
    // A long life forgives what was before it, but not that it fails again and again now.
    const steady = (leased.instance?.started_ms_ago ?? 0) >= STEADY_MS && leased.deployment.state !== 'failing';
    const attempts = steady ? 1 : leased.deployment.attempts + 1;
    this.#options.log.warn({ deployment: lease.deploymentId, attempts, err: cause }, `deployment failed: ${reason}`);
    // What was ready and failed is back at the beginning.
    const stage = progress.stage === 'ready' ? 'queued' : (progress.stage ?? 'queued');
    const state = leased.deployment.desired === 'deleted' ? 'deleting' : 'failing';
    // While one is replaced that serves, nothing fails that anybody needs.
    if (leased.incoming && leased.instance && this.#lookAtLink(leased.instance.id).linkUp) {
      await this.#options.work.enter(lease, { state: 'ready', stage: 'ready', stages: progress.close(), reason, attempts });
      return { dueInMs: backoffMs(attempts, BACKOFF), failed: true };
    }
    // The same failure again is no news: one event a reason, however often it is tried.
    const event = leased.deployment.reason === reason ? undefined : 'deployment.failed';
    const runs = leased.instance?.started_at != null && leased.instance.stopped_at === null;
    const room = runs ? {} : ({ room_mib: null } as const);
    await this.#options.work.enter(lease, { state, stage, stages: progress.close(), reason, attempts, ...room }, event);
    return { dueInMs: backoffMs(attempts, BACKOFF), failed: true };
  }

  /** The engine is there, again or for the first time: what failed for want of it need not wait, and everything is looked at. */
  async #afterGap(): Promise<void> {
    await this.#options.work.endPausesFor(UNAVAILABLE);
    this.#loops[1]?.wake();
  }

  /** What the runtime sees happen makes its deployment due; after a gap everything is looked at. */
  async #note(event: RuntimeEvent): Promise<void> {
    const { work, vitals } = this.#options;
    if (event.type === 'resync') await this.#afterGap();
    else if (event.type === 'oom') await vitals.noteOom(event.instanceId, event.deploymentId);
    else if (event.type === 'die' || event.type === 'remove') await work.lookAgain([event.deploymentId]);
  }
}

function situationOf(instance: NonNullable<Leased['instance']>): NonNullable<Situation['instance']> {
  return {
    specHash: instance.spec_hash,
    limits: instance.limits,
    appliedVersion: instance.applied_version,
    startedMsAgo: instance.started_ms_ago ?? undefined,
    runtimeStartedAtMs: instance.runtime_started_at === null ? undefined : Number(instance.runtime_started_at),
    isStopped: instance.stopped_at !== null,
  };
}

/** The reason shown to the tenant: our own words where the error is ours, none of the inside where it is not. */
function reasonOf(error: unknown): string {
  if (error instanceof AppError) return error.code === 'unavailable' ? `${UNAVAILABLE}: ${error.message}` : error.message;
  return 'internal error; see the log of Berth';
}
