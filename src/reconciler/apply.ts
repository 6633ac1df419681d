import { createHash, randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Admission } from '../domains/deployments/admission.js';
import type { Replacements } from '../domains/deployments/replacement.js';
import type { DeploymentWork, Lease, Leased } from '../domains/deployments/work.js';
import type { Assembly } from '../domains/assembly/assembly.js';
import type { GatewayClient } from '../gateway/gateway.js';
import type { InstanceConfig } from '../gateway/instance-config.js';
import type { ReleaseClient } from '../gateway/release.js';
import { AppError } from '../lib/errors.js';
import { newId } from '../lib/ids.js';
import type { Log } from '../lib/log.js';
import type { LinkHost } from '../link/host.js';
import type { InstanceSpec, Observed, Runtime } from '../runtime/runtime.js';
import type { Step } from './plan.js';
import { Holding } from './holding.js';
import type { Progress } from './progress.js';
import { Replacer, shareOf } from './replacer.js';
import { takeAway } from './removal.js';
import { imageOf, instanceName, isOverfull, limitsOf, limitsText, refusedLimits, specFor, specHashOf, wishOf } from './spec.js';

export interface Hands {
  work: DeploymentWork;
  runtime: Runtime;
  /** Resolves once what an instance printed before it ended has been read, or after a moment. */
  lastWords(instanceId: string): Promise<void>;
  links: LinkHost;
  admission: Pick<Admission, 'ask'>;
  gateway: GatewayClient;
  assembly: Assembly;
  replacements: Replacements;
  releases: ReleaseClient;
  log: Log;
  /** How long turns may go on that keep a replacement from coming to its end. */
  turnTimeoutMs: number;
  installationId: string;
  image: string;
}

/**
 * What a pass does after a step: go on, or stop and look again after a time (never, if undefined). To go on it looks at the container anew, unless
 * the step knows how that is by now, or did nothing to it: then it is as it was seen before. What happens to it meanwhile is an event that makes its
 * deployment due again.
 */
export type Next = 'again' | 'unchanged' | { goOnWith: Observed | undefined } | { lookAgainInMs: number | undefined };

/**
 * How long one pass stays with an instance that it has just started, since most connect at once. With older ones none stays: a link that comes
 * up wakes the reconciler, and instances that never connect must not take its hands from the others.
 */
const STAY_MS = 2_000;
/** How often it looks meanwhile whether the instance runs at all. */
const STILL_RUNS_MS = 250;
/**
 * How much longer than the engine a gateway may take for its being told to be written down together with its start: most take less. Each word of a
 * start sets others to work, which the gateway would boot beside.
 */
const EARLY_MS = 500;

/** How long one that is in use is left before it is looked at again whether it may rest. */
const BUSY_S = 5;
const STOP_GRACE_MS = 10_000;

/** How long an instance must have run before its deployment's failures are forgotten. */
export const STEADY_MS = 60_000;

/** Carries out one step. Everything here may be killed at any line and done again. */
export class Apply {
  readonly #hands: Hands;
  readonly #replacer: Replacer;
  readonly #holding: Holding;

  constructor(hands: Hands) {
    this.#hands = hands;
    this.#replacer = new Replacer(hands);
    this.#holding = new Holding(hands);
  }

  /** `seen` is what the runtime said a moment ago of the instance that the step is about, if it was asked. */
  async step(
    step: Exclude<Step, { do: 'end' }>,
    lease: Lease,
    leased: Leased,
    progress: Progress,
    signal: AbortSignal,
    seen?: Observed,
  ): Promise<Next> {
    switch (step.do) {
      case 'queue':
        return this.#holding.queue(lease, leased, progress);
      case 'admit':
        return this.#admit(lease, leased, progress, step.of ?? 'current');
      case 'create':
        return this.#create(lease, leased, progress);
      case 'start':
        return this.#start(lease, leased, progress, signal, seen);
      case 'unpause':
        return this.#unpause(leased, signal, seen);
      case 'limit':
        return this.#limit(lease, leased);
      case 'grow':
        return this.#holding.grow(lease, leased);
      case 'pause':
        return this.#pause(lease, leased, signal);
      case 'stop':
        return this.#stop(lease, leased, signal);
      case 'connect':
        return this.#connect(lease, progress);
      case 'configure':
        return this.#configure(lease, leased, progress, signal);
      case 'settle':
        return this.#settle(lease, leased, progress, step.againInMs);
      case 'hand_over':
        return this.#replacer.handOver(lease, leased, signal);
      case 'watch':
        return { lookAgainInMs: step.ms };
      case 'promote':
        return this.#replacer.promote(lease, leased, step.why, step.graceMs);
      case 'undo':
        return this.#replacer.undo(lease, leased, step, wishOf(leased, this.#hands.image));
      case 'rest':
        return this.#rest(lease, leased, progress);
      case 'remove_volume':
        await this.#hands.runtime.removeVolume(leased.deployment.volume);
        await this.#hands.work.erase(lease);
        return { lookAgainInMs: undefined };
    }
  }

  /** Ends the live instance: the container first, then its folder and its row, so that a crash between them leaves the row to find it by. */
  async end(lease: Lease, leased: Leased, { why, graceMs }: { why: string; graceMs: number }, keepsRoom: boolean): Promise<void> {
    const { links, work } = this.#hands;
    const instance = liveOf(leased);
    await takeAway(this.#hands, instance, graceMs);
    await links.remove(instance.id);
    await work.updateInstance(lease, instance.id, { ended: why }, keepsRoom ? {} : { room_mib: null });
    // Until the row said so, this process may have begun to listen for it again.
    await links.remove(instance.id);
  }

  async #admit(lease: Lease, leased: Leased, progress: Progress, role: 'current' | 'incoming'): Promise<Next> {
    const generation = leased.deployment.generation + 1;
    const specHash = specHashOf(leased, this.#hands.image);
    const name = instanceName(this.#hands.installationId, lease.deploymentId, generation);
    // The digest of nothing: the token is made when the container is, so a crash in between leaves none behind.
    await this.#hands.work.admit(
      lease,
      {
        id: newId('ins'),
        generation,
        name,
        specHash,
        limits: limitsText(limitsOf(leased.deployment)),
        tokenDigest: '',
        role,
        image: imageOf(leased, this.#hands.image),
      },
      progress.at('creating', leased.deployment.updated_at),
    );
    return { goOnWith: undefined };
  }

  async #create(lease: Lease, leased: Leased, progress: Progress): Promise<Next> {
    const { work, links, runtime, installationId, image } = this.#hands;
    const instance = liveOf(leased);
    const token = randomBytes(32).toString('base64url');
    const digest = createHash('sha256').update(token).digest('hex');
    if (progress.running !== 'creating') await work.enter(lease, { state: 'deploying', ...progress.at('creating') });
    await work.updateInstance(lease, instance.id, { token_digest: digest });
    const identity = { instanceId: instance.id, deploymentId: lease.deploymentId, userId: lease.userId ?? '' };
    const { dir } = await links.open(identity, digest);
    await links.writeToken(instance.id, token);
    const bounded = leased.deployment.disk === null ? await this.#holding.chooseDisk(lease, leased) : leased;
    const spec: InstanceSpec = specFor(bounded, { installationId, image, linkDir: dir });
    return { goOnWith: await runtime.create(spec) };
  }

  async #start(lease: Lease, leased: Leased, progress: Progress, signal: AbortSignal, seen?: Observed): Promise<Next> {
    await this.#hands.work.enter(lease, { state: 'deploying', ...progress.at('starting') });
    if (leased.deployment.disk_pending) await this.#holding.grow(lease, leased);
    const waiting = new AbortController();
    const told = this.#tellEarly(lease, leased, progress, AbortSignal.any([waiting.signal, signal]));
    try {
      return await this.#startTelling(lease, leased, told, seen);
    } finally {
      waiting.abort();
    }
  }

  /** Starts it, and goes on as soon as its gateway has been told; else when that takes too long, or the container ended over it. */
  async #startTelling(lease: Lease, leased: Leased, told: Promise<number | undefined>, before?: Observed): Promise<Next> {
    const { runtime, work } = this.#hands;
    const instance = liveOf(leased);
    try {
      await runtime.start(instance.name, before);
    } catch (error) {
      // It was made of something that is gone since (its link folder, its image): made anew, it has a chance.
      if (error instanceof AppError && error.code === 'unprocessable') await runtime.remove(instance.name);
      throw error;
    }
    const seen = await runtime.inspect(instance.name);
    const early = await within(EARLY_MS, told);
    const started = { runtimeAtMs: seen?.startedAt, appliedVersion: early?.done ?? 0 };
    await work.updateInstance(lease, instance.id, { started });
    if (early) return early.done === undefined ? 'again' : { goOnWith: seen };
    const untilMs = performance.now() + STAY_MS;
    for (let now = seen; now?.state === 'running' && performance.now() < untilMs; now = await runtime.inspect(instance.name)) {
      const late = await within(STILL_RUNS_MS, told);
      if (!late) continue;
      if (late.done === undefined) break;
      await work.updateInstance(lease, instance.id, { applied_version: late.done });
      return { goOnWith: now };
    }
    return 'again';
  }

  /**
   * A gateway dials before the engine's start call returns, or soon after, and all that it is to be told is ready by then. Answers the version it took;
   * undefined where that did not work out, and the steps that follow do it at their pace. Never throws.
   */
  async #tellEarly(lease: Lease, leased: Leased, progress: Progress, signal: AbortSignal): Promise<number | undefined> {
    const { links } = this.#hands;
    const { id } = liveOf(leased);
    try {
      const config = await this.#configOf(leased);
      await links.waitFor(id, signal);
      if (isIncoming(leased) && !(await this.#hands.releases.isKnownTo(id, signal))) return undefined;
      progress.at('connecting');
      progress.at('configuring');
      await this.#tell(lease, id, config, signal);
      return config.version;
    } catch {
      // Whatever it was, the next steps meet it again, and say so.
      return undefined;
    }
  }

  /** A link that comes up makes its deployment due. */
  async #connect(lease: Lease, progress: Progress): Promise<Next> {
    if (progress.running !== 'connecting')
      await this.#hands.work.enter(lease, { state: 'deploying', ...progress.at('connecting') });
    return { lookAgainInMs: 2_000 };
  }

  async #configure(lease: Lease, leased: Leased, progress: Progress, signal: AbortSignal): Promise<Next> {
    const { work, links } = this.#hands;
    const first = liveOf(leased).applied_version === 0;
    if (first && isIncoming(leased) && !(await this.#hands.releases.isKnownTo(liveOf(leased).id, signal))) {
      const both = { ...leased, instance: leased.current };
      return this.#replacer.promote(lease, both, 'replaced: the gateway of the new image cannot share a volume', STOP_GRACE_MS);
    }
    if (first) await work.enter(lease, { state: 'deploying', ...progress.at('configuring') });
    // It may have been nobody's until now.
    links.assign(liveOf(leased).id, lease.userId ?? '');
    const config = await this.#configOf(leased);
    await this.#tell(lease, liveOf(leased).id, config, signal);
    await work.updateInstance(lease, liveOf(leased).id, { applied_version: config.version });
    return 'unchanged';
  }

  /** Whoever claims one of the pool waits for its gateway; until then there is time to have it rehearse. */
  async #tell({ userId }: Lease, instanceId: string, config: InstanceConfig, signal: AbortSignal): Promise<void> {
    const { assembly, gateway } = this.#hands;
    if (userId === null) await gateway.rehearse(instanceId, config.version, signal);
    await gateway.configure(instanceId, config, assembly.packagesOf(userId ?? ''), signal);
  }

  async #configOf(leased: Leased): Promise<InstanceConfig> {
    const { id, config_version: version, desired } = leased.deployment;
    const mode = desired === 'asleep' || isOverfull(leased.deployment) ? 'files' : 'full';
    return shareOf(await this.#hands.assembly.configOf(id, version, mode), leased);
  }

  async #settle(lease: Lease, leased: Leased, progress: Progress, againInMs?: number): Promise<Next> {
    const { deployment, instance } = leased;
    const steady = (instance?.started_ms_ago ?? 0) >= STEADY_MS;
    const attempts = steady ? 0 : deployment.attempts;
    if (deployment.state !== 'ready') {
      await this.#hands.work.enter(
        lease,
        { state: 'ready', reason: againInMs === undefined ? null : deployment.reason, attempts, ...progress.at('ready') },
        'deployment.ready',
      );
      return { lookAgainInMs: againInMs ?? nextLookMs(deployment, attempts > 0) };
    }
    // What was noted of a running instance, such as a link that was cut for abuse, stands for a while.
    if (againInMs !== undefined) return { lookAgainInMs: againInMs };
    const isOld = Date.now() - deployment.updated_at.getTime() >= STEADY_MS;
    const reason = isOld ? null : deployment.reason;
    if (attempts !== deployment.attempts || reason !== deployment.reason) {
      await this.#hands.work.enter(lease, { state: 'ready', reason, attempts, stage: 'ready', stages: deployment.stages });
    }
    return { lookAgainInMs: nextLookMs(deployment, attempts > 0 || reason !== null) };
  }

  /** Where the engine cannot change them as the instance is, that is noted, and another one is made with them. */
  async #limit(lease: Lease, leased: Leased): Promise<Next> {
    const { runtime, work } = this.#hands;
    const instance = liveOf(leased);
    const limits = limitsOf(leased.deployment);
    try {
      await runtime.update(instance.name, limits);
    } catch (error) {
      if (!(error instanceof AppError && error.code === 'unprocessable')) throw error;
      await work.updateInstance(lease, instance.id, { limits: refusedLimits(limitsText(limits)) });
      return 'unchanged';
    }
    await work.updateInstance(lease, instance.id, { limits: limitsText(limits) }, { room_mib: limits.memoryMib });
    return 'unchanged';
  }

  /** Work in flight is never frozen: also that which this process knows nothing of is asked for. */
  async #pause(lease: Lease, leased: Leased, signal: AbortSignal): Promise<Next> {
    const { runtime, links, work } = this.#hands;
    const instance = liveOf(leased);
    if (await this.#isBusy(lease, instance.id, signal)) return 'again';
    links.pauseWatch(instance.id);
    await runtime.pause(instance.name);
    // What came between the question and the freezing waits frozen: thawed at once.
    if (links.isInUse(instance.id)) await work.stayAwake(lease, BUSY_S);
    return 'again';
  }

  /** A link that does not answer after the thaw is cut, since a frozen gateway could not see that it was lost: it dials anew. */
  async #unpause(leased: Leased, signal: AbortSignal, before?: Observed): Promise<Next> {
    const { runtime, links, gateway } = this.#hands;
    const instance = liveOf(leased);
    await runtime.unpause(instance.name, before);
    links.resumeWatch(instance.id);
    const link = links.get(instance.id);
    const [seen, isAlive] = await Promise.all([runtime.inspect(instance.name), link && gateway.isAlive(instance.id, signal)]);
    if (link && !isAlive) link.close('no answer after the thaw');
    return { goOnWith: seen };
  }

  /** Whether the instance works, or was asked not to rest; then it does not, for as long. */
  async #isBusy(lease: Lease, instanceId: string, signal: AbortSignal): Promise<boolean> {
    const { links, gateway, work } = this.#hands;
    const busyS = links.isInUse(instanceId) ? BUSY_S : await gateway.busyFor(instanceId, signal);
    if (busyS > 0) await work.stayAwake(lease, busyS);
    return busyS > 0;
  }

  /** Thawed first, since a call may have come while it was frozen, and a frozen gateway cannot say that it works. */
  async #stop(lease: Lease, leased: Leased, signal: AbortSignal): Promise<Next> {
    const { runtime, links, work } = this.#hands;
    const instance = liveOf(leased);
    const before = await runtime.inspect(instance.name);
    if (before?.state === 'paused') await runtime.unpause(instance.name, before);
    if (await this.#isBusy(lease, instance.id, signal)) return 'again';
    await work.updateInstance(lease, instance.id, { stopped: true });
    await runtime.stop(instance.name, STOP_GRACE_MS);
    await work.note(lease, { room_mib: null });
    links.resumeWatch(instance.id);
    // That its end is not seen yet on this side must not let its next life be spoken to on it.
    links.get(instance.id)?.close('the instance was stopped');
    return 'again';
  }

  async #rest(lease: Lease, { deployment, instance }: Leased, progress: Progress): Promise<Next> {
    const given = deployment.rest === 'paused' && instance ? {} : ({ room_mib: null, queued_at: null } as const);
    if (deployment.state === 'asleep' && (deployment.room_mib !== null || deployment.queued_at !== null))
      await this.#hands.work.note(lease, given);
    if (deployment.state !== 'asleep') {
      const asleep = { state: 'asleep', stage: 'queued', stages: progress.close(), reason: null, attempts: 0, ...given } as const;
      await this.#hands.work.enter(lease, asleep, 'deployment.asleep');
    }
    return { lookAgainInMs: undefined };
  }
}

/** When a settled deployment is looked at again: at the end of what is to be forgotten, or of its being up for files alone. */
function nextLookMs({ desired, files_ms_left }: Leased['deployment'], isMarked: boolean): number | undefined {
  const filesMs = desired === 'asleep' ? Math.max(0, files_ms_left ?? 0) + 50 : undefined;
  if (!isMarked) return filesMs;
  return Math.min(filesMs ?? STEADY_MS, STEADY_MS);
}

function liveOf(leased: Leased): NonNullable<Leased['instance']> {
  if (!leased.instance) throw new Error(`deployment ${leased.deployment.id} has no live instance`);
  return leased.instance;
}

/** What comes of `work`, where it comes within the time. */
async function within<T>(timeoutMs: number, work: Promise<T>): Promise<{ done: T } | undefined> {
  const timer = new AbortController();
  const late = sleep(timeoutMs, undefined, { signal: timer.signal }).catch(() => undefined);
  return Promise.race([work.then((done) => ({ done })), late]).finally(() => timer.abort());
}

function isIncoming({ instance, incoming }: Leased): boolean {
  return instance !== undefined && instance.id === incoming?.id;
}
