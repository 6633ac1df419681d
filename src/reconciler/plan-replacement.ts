import type { Observed } from '../runtime/runtime.js';
import { CONNECT_TIMEOUT_MS, whyItEnded } from './endings.js';
import type { InstanceSituation, Situation, Step } from './plan.js';

/** What a replacement needs to be known of, besides what every decision rests on. */
export interface Incoming extends InstanceSituation {
  observed: Situation['observed'];
  linkUp: boolean;
  unlinkedMs: number;
  /** How many agents it serves by now, and how many are still to come. */
  handed: number;
  left: number;
  /** How long ago it took the last one over; without any, how long ago it was started. */
  handedMsAgo: number;
}

/** How long one that is to take another's place may run without a link: nobody waits for it, and its place is taken. */
export const INCOMING_LINK_MS = 15_000;

/** What it says of itself where it replaces another, or is. */
const WHY_REPLACED = 'replaced: what its container is made of changed';

/** How a current instance that cannot go on is told from one that can. */
export function whyGone({ instance, observed, unlinkedMs, linkUp }: Situation): string | undefined {
  if (!instance) return WHY_REPLACED;
  if (!observed) return 'the container was removed from outside';
  if (observed.state === 'exited') return whyItEnded(observed);
  if (!linkUp && unlinkedMs >= CONNECT_TIMEOUT_MS) return `its gateway has had no link for ${CONNECT_TIMEOUT_MS / 1000} s`;
  return undefined;
}

/** One step of a replacement: the incoming instance gets ready while the current one serves, takes over agent after agent, and stays if it lasts. */
export function planReplacement(situation: Situation, incoming: Incoming): Step {
  const { desired, rest, instance, observed, linkUp } = situation;
  if (desired !== 'running' || rest !== null) return undo('no instance is needed any more', incoming);
  const gone = whyGone(situation);
  if (gone !== undefined) return { do: 'promote', why: gone, graceMs: 0 };
  const isWished = incoming.specHash === situation.specHash && incoming.limits === situation.limits;
  // With agents of its own it goes on, and is replaced in its turn: so no turn is cut.
  if (!isWished && incoming.handed === 0) return undo('what it was to be made of has changed meanwhile', incoming);
  const failure = whyFailed(incoming);
  if (failure !== undefined) return { do: 'undo', why: `the new instance was given up: ${failure}`, failed: true, graceMs: 0 };
  if (observed?.state === 'paused') return { do: 'unpause' };
  if (instance && observed && wasRestarted(instance, observed)) return { do: 'start' };
  if (instance && linkUp && instance.appliedVersion < situation.configVersion) return { do: 'configure' };
  return planIncoming(situation, incoming);
}

function undo(why: string, { handed }: Incoming): Step {
  return { do: 'undo', why, failed: false, graceMs: handed > 0 ? 10_000 : 0 };
}

/** Why an incoming instance will not do, if so. */
function whyFailed({ observed, startedMsAgo, linkUp, unlinkedMs }: Incoming): string | undefined {
  if (!observed) return startedMsAgo === undefined ? undefined : 'the container was removed from outside';
  if (observed.state === 'exited') return whyItEnded(observed);
  if (observed.state === 'running' && startedMsAgo !== undefined && !linkUp && unlinkedMs >= INCOMING_LINK_MS)
    return `its gateway has had no link for ${INCOMING_LINK_MS / 1000} s`;
  return undefined;
}

function planIncoming({ configVersion, probationMs }: Situation, incoming: Incoming): Step {
  const { observed, startedMsAgo, handedMsAgo } = incoming;
  if (!observed) return { do: 'create', of: 'incoming' };
  if (observed.state !== 'running' || startedMsAgo === undefined || wasRestarted(incoming, observed))
    return { do: 'start', of: 'incoming' };
  if (!incoming.linkUp) return { do: 'connect', of: 'incoming' };
  if (incoming.appliedVersion < configVersion) return { do: 'configure', of: 'incoming' };
  if (incoming.left > 0) return { do: 'hand_over' };
  if (handedMsAgo < probationMs) return { do: 'watch', ms: probationMs - handedMsAgo };
  return { do: 'promote', why: WHY_REPLACED, graceMs: 10_000 };
}

/** Whether it was started by somebody else than us, so that it knows nothing. */
function wasRestarted({ runtimeStartedAtMs }: InstanceSituation, { startedAt }: Observed): boolean {
  return startedAt !== undefined && startedAt !== runtimeStartedAtMs;
}
