/** Which wave each of `count` deployments is in: the canary's share first, then each wave as large as all before it. */
export function wavesOf(count: number, canary: number): number[] {
  const waves: number[] = [];
  let size = Math.max(1, Math.ceil(count * canary));
  for (let wave = 0; waves.length < count; wave++) {
    const room = Math.min(size, count - waves.length);
    for (let n = 0; n < room; n++) waves.push(wave);
    size = waves.length;
  }
  return waves;
}

/** How a deployment stands that a rollout gave its image to. */
export interface Standing {
  desired: string | null;
  state: string | null;
  rest: string | null;
  image: string | null;
  rolled_image: string | null;
  roll_failed: string | null;
  roll_attempts: number | null;
  running_image: string | null;
}

/** Attempts at a replacement that may fail before it counts: an engine that is away for a moment is no fault of the image. */
const ATTEMPTS = 2;

export function memberState(standing: Standing, image: string, isLate: boolean): 'rolling' | 'ready' | 'failed' | 'gone' {
  const { desired, state, rest, running_image: running } = standing;
  if (desired === null || desired === 'deleted' || standing.image !== null || standing.rolled_image !== image) return 'gone';
  // It gets the image when it wakes.
  if (desired === 'asleep' || rest !== null || state === 'asleep') return 'ready';
  if (state === 'ready' && running === image) return 'ready';
  const failed = standing.roll_failed !== null && (standing.roll_attempts ?? 0) >= ATTEMPTS;
  return failed || state === 'failing' || isLate ? 'failed' : 'rolling';
}

/** Fewer turns than this say nothing. */
const TURNS_AT_LEAST = 10;

/** 1: nothing went wrong. The lower one of two shares: deployments that did not fail, turns without an error. */
export function healthOf(members: { all: number; failed: number }, turns: { ended: number; failed: number }): number {
  const ofMembers = members.all === 0 ? 1 : 1 - members.failed / members.all;
  const ofTurns = turns.ended < TURNS_AT_LEAST ? 1 : 1 - turns.failed / turns.ended;
  return Math.min(ofMembers, ofTurns);
}
