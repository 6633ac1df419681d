import type { Observed } from '../runtime/runtime.js';
import { CONNECT_TIMEOUT_MS, whyItEnded } from './endings.js';
import { type Incoming, planReplacement } from './plan-replacement.js';
import { refusedLimits } from './spec.js';

/** What the database says of an instance that lives. */
export interface InstanceSituation {
  specHash: string;
  limits: string;
  appliedVersion: number;
  startedMsAgo: number | undefined;
  runtimeStartedAtMs: number | undefined;
  /** Whether it was stopped on purpose and has not been started since. */
  isStopped: boolean;
}

/** All that a decision rests on; nothing else is looked at. */
export interface Situation {
  desired: 'running' | 'asleep' | 'deleted';
  /** Whether a sleeping deployment is to be up, for its files alone. */
  filesAwake: boolean;
  /** How it is to sleep for want of use; null: not. */
  rest: 'paused' | 'stopped' | null;
  /** Hash of the spec an instance must have to be the wished one. */
  specHash: string;
  /** The limits that it is to have. */
  limits: string;
  /** Whether these are nowhere smaller than those that it has. */
  limitsGrow: boolean;
  configVersion: number;
  /** Whether memory of the host is set aside for it, so that it may start. */
  hasRoom: boolean;
  /** Whether its volume is to be made larger. */
  diskBehind: boolean;
  /** Whether it must stop at once what it does, since its volume holds more than it may: it was started before that was seen. */
  mustStopWriting: boolean;
  /** The instance that the database says lives. */
  instance: InstanceSituation | undefined;
  /** What the runtime says of it. */
  observed: Observed | undefined;
  linkUp: boolean;
  /** How long this process has seen the instance run without a link; since its start does not count, Berth may have been away. */
  unlinkedMs: number;
  /** The instance that is to take its place, while it does. */
  incoming?: Incoming | undefined;
  /** Whether it may be replaced while it serves; else it is ended first. */
  isRollable: boolean;
  /** How long no replacement is tried, since one failed. */
  rollWaitMs: number;
  /** How long one must have run before the other is let go. */
  probationMs: number;
}

/** The next safe step. Each can be done again after a crash in the midst of it. */
export type Step =
  | { do: 'queue' }
  | { do: 'admit'; of?: 'incoming' }
  | { do: 'create'; of?: 'incoming' }
  | { do: 'start'; of?: 'incoming' }
  | { do: 'limit' }
  | { do: 'grow' }
  | { do: 'unpause' }
  | { do: 'pause' }
  | { do: 'stop' }
  | { do: 'connect'; of?: 'incoming' }
  | { do: 'configure'; of?: 'incoming' }
  | { do: 'hand_over' }
  | { do: 'watch'; ms: number }
  | { do: 'promote'; why: string; graceMs: number }
  | { do: 'undo'; why: string; failed: boolean; graceMs: number }
  | { do: 'settle'; againInMs?: number }
  | { do: 'rest' }
  | { do: 'end'; why: string; failed: boolean; graceMs: number }
  | { do: 'remove_volume' };

/** How an instance ends that goes on writing where there is no room for it. */
const OVERFULL = 'ended: its volume held more than its tier allows';

/** How long a replaced instance has to finish what it does. */
const REPLACE_GRACE_MS = 10_000;

/** What to do next about one deployment: pure, so that every case is a row of a test's table. */
export function plan(situation: Situation): Step {
  const { desired, instance, observed, incoming } = situation;
  if (incoming) return planReplacement(situation, incoming);
  if (desired === 'deleted') return instance ? { do: 'end', why: 'deleted', failed: false, graceMs: 0 } : { do: 'remove_volume' };
  if (desired === 'asleep' && !situation.filesAwake) {
    return instance ? { do: 'end', why: 'asleep', failed: false, graceMs: REPLACE_GRACE_MS } : { do: 'rest' };
  }
  if (desired === 'running' && situation.rest !== null) return planRest(situation.rest, instance, observed);
  if (!instance) return situation.hasRoom ? { do: 'admit' } : { do: 'queue' };
  if (!observed) return planMissing(situation, instance.startedMsAgo);
  if (observed.state === 'exited' && !instance.isStopped) {
    return { do: 'end', why: whyItEnded(observed), failed: true, graceMs: 0 };
  }
  const isOther = instance.specHash !== situation.specHash || instance.limits === refusedLimits(situation.limits);
  if (isOther) return planOther(situation, instance, observed);
  if (situation.mustStopWriting && observed.state !== 'created')
    return { do: 'end', why: OVERFULL, failed: false, graceMs: REPLACE_GRACE_MS };
  const change = planChange(situation, instance);
  const isUp = observed.state === 'running' || observed.state === 'paused';
  // Whoever waits for its agents goes before what only gives them more.
  if (change && !(isUp && situation.limitsGrow)) return change;
  if (!isUp) return situation.hasRoom ? { do: 'start' } : { do: 'queue' };
  if (observed.state === 'paused') return { do: 'unpause' };
  return planRunning(situation, instance, change);
}

/** What the container takes as it is. */
function planChange(situation: Situation, instance: InstanceSituation): Step | undefined {
  if (instance.limits !== situation.limits) return { do: 'limit' };
  return situation.diskBehind ? { do: 'grow' } : undefined;
}

/** Another container is needed. One that serves goes on until that is ready; what may fail at it is the new one's. */
function planOther(situation: Situation, instance: InstanceSituation, observed: Observed): Step {
  // Whoever woke it is served by it at once, which a new one takes longer for.
  if (situation.isRollable && situation.desired === 'running' && observed.state === 'paused') return { do: 'unpause' };
  const serves = observed.state === 'running' && instance.appliedVersion > 0;
  if (!situation.isRollable || !serves || situation.desired !== 'running') {
    return { do: 'end', why: 'replaced: what its container is made of changed', failed: false, graceMs: REPLACE_GRACE_MS };
  }
  const step = planRunning(situation, instance);
  if (step.do !== 'settle') return step;
  return situation.rollWaitMs > 0 ? { do: 'settle', againInMs: situation.rollWaitMs } : { do: 'admit', of: 'incoming' };
}

/** Towards sleep. What ended by itself meanwhile is looked into when it wakes. */
function planRest(rest: 'paused' | 'stopped', instance: Situation['instance'], observed: Observed | undefined): Step {
  if (!instance) return { do: 'rest' };
  if (!observed) return { do: 'end', why: 'the container was removed while it slept', failed: false, graceMs: 0 };
  if (observed.state === 'running') return { do: rest === 'paused' ? 'pause' : 'stop' };
  if (observed.state === 'paused' && rest === 'stopped') return { do: 'stop' };
  return { do: 'rest' };
}

function planMissing({ hasRoom }: Situation, startedMsAgo: number | undefined): Step {
  if (startedMsAgo === undefined) return hasRoom ? { do: 'create' } : { do: 'queue' };
  return { do: 'end', why: 'the container was removed from outside', failed: true, graceMs: 0 };
}

function planRunning(situation: Situation, instance: InstanceSituation, change?: Step): Step {
  // Not noted yet, or restarted from outside: starting what runs changes nothing, and notes when it began.
  if (instance.startedMsAgo === undefined) return { do: 'start' };
  if (situation.observed?.startedAt !== undefined && situation.observed.startedAt !== instance.runtimeStartedAtMs)
    return { do: 'start' };
  if (!situation.linkUp) {
    if (situation.unlinkedMs < CONNECT_TIMEOUT_MS) return change ?? { do: 'connect' };
    return { do: 'end', why: `its gateway has had no link for ${CONNECT_TIMEOUT_MS / 1000} s`, failed: true, graceMs: 0 };
  }
  if (instance.appliedVersion < situation.configVersion) return { do: 'configure' };
  return change ?? { do: 'settle' };
}
