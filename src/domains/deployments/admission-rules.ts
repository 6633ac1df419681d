/** What the host has. */
export interface HostRoom {
  memoryMib: number;
  /** What could be used now without pushing anything out. */
  availableMib: number;
  /** Of the disk that holds what instances write; undefined where it cannot be seen from here. */
  diskFreeMib: number | undefined;
}

export interface AdmissionLimits {
  /** Memory that is left to everything else on the host; a tenth of it unless told. */
  reserveMib: number | undefined;
  /** How much memory may be set aside for instances, as a share of what is left besides the reserve: few use all that they may. */
  overcommit: number;
  startsAtOnce: number;
  diskReserveMib: number;
}

/** What is set aside by now, and how many are on their way up. */
export interface Taken {
  committedMib: number;
  starting: number;
  /** Of those, how many are of the user who asks. */
  ownStarting: number;
}

export type NotYet = 'disk' | 'starts' | 'share' | 'memory' | 'turn';

export const WHY: Record<NotYet, string> = {
  disk: 'the disk of the host is nearly full',
  starts: 'as many containers are starting as may start at once',
  share: 'so many containers of its user are starting that the next start is left to others',
  memory: 'the memory of the host is taken',
  turn: 'others wait for the host and came before it',
};

/** All that may be set aside. */
export function capacityMib(host: HostRoom, limits: AdmissionLimits): number {
  return Math.max(0, Math.floor((host.memoryMib - reserveOf(host, limits)) * limits.overcommit));
}

function reserveOf({ memoryMib }: HostRoom, { reserveMib }: AdmissionLimits): number {
  return reserveMib ?? Math.floor(memoryMib / 10);
}

/**
 * The most that one counts. What it may take beyond is a bound and seldom a use; counted whole, one that may take more than the host has would wait
 * for ever, and everybody behind it.
 */
export function countedAtMostMib(host: HostRoom, limits: AdmissionLimits): number {
  return Math.floor(capacityMib(host, limits) / 4);
}

/** Why one more may not start yet; undefined where it may. Where nothing runs one may always, if the disk has room. */
export function whyNotYet(wantMib: number, taken: Taken, host: HostRoom, limits: AdmissionLimits): NotYet | undefined {
  if (host.diskFreeMib !== undefined && host.diskFreeMib < limits.diskReserveMib) return 'disk';
  if (taken.starting >= limits.startsAtOnce) return 'starts';
  if (!startsMore(taken, limits)) return 'share';
  if (taken.committedMib === 0) return undefined;
  if (missingMib(wantMib, taken, host, limits) > 0 || host.availableMib < reserveOf(host, limits)) return 'memory';
  return undefined;
}

/**
 * Whether one more of a user's may start: while fewer of its are starting than could still start. Whoever starts all it may leaves half of what was
 * left to those who come after, so that one whose containers never get ready holds nobody up.
 */
export function startsMore(
  { starting, ownStarting }: Pick<Taken, 'starting' | 'ownStarting'>,
  { startsAtOnce }: Pick<AdmissionLimits, 'startsAtOnce'>,
): boolean {
  return ownStarting < startsAtOnce - starting;
}

/** How much has to be given back before one may start that wants so much. */
export function missingMib(wantMib: number, taken: Pick<Taken, 'committedMib'>, host: HostRoom, limits: AdmissionLimits): number {
  const counted = Math.min(wantMib, countedAtMostMib(host, limits));
  return Math.max(0, taken.committedMib + counted - capacityMib(host, limits));
}

/**
 * The turn of somebody who begins to wait: each user has one place a turn, so that whoever comes with two hundred stands once before everybody else and
 * not two hundred times. `ofUser`: the last turn that the user has already; `first`: the turn that is served now. Whoever comes later never comes before
 * those who have a turn, so that nobody waits for ever.
 */
export function turnFor(ofUser: number | undefined, first: number | undefined): number {
  return Math.max((ofUser ?? 0) + 1, first ?? 1);
}

/** Whom to stop so that so much is given back, in the order given; nobody where that does not do. */
export function toStop<T extends { roomMib: number }>(missing: number, candidates: readonly T[]): T[] {
  const chosen: T[] = [];
  let left = missing;
  for (const candidate of candidates) {
    if (left <= 0) break;
    chosen.push(candidate);
    left -= candidate.roomMib;
  }
  return left > 0 ? [] : chosen;
}
