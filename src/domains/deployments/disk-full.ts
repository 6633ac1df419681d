import type { DiskUse } from '../../runtime/runtime.js';

const MIB = 1024 * 1024;

/** What was seen of a volume, by the kind of its bound. Of one without a bound of its own, what its gateway counted. */
export type Measured = { kind: 'hard'; use: DiskUse } | { kind: 'soft'; usedBytes: number; limitMib: number };

/**
 * Whether a volume is full: one with a bound of its own when next to nothing is left of it, any other when it holds more than it may. What was full
 * must have got some room before it is not any more, so that it does not change with every file.
 */
export function isFull(measured: Measured, wasFull: boolean): boolean {
  if (measured.kind === 'soft') return measured.usedBytes > measured.limitMib * MIB * (wasFull ? 0.95 : 1);
  const { usedBytes, freeBytes } = measured.use;
  const share = (usedBytes + freeBytes) * (wasFull ? 0.05 : 0.01);
  return freeBytes < Math.max(share, MIB);
}

/** The share of the periods between two looks in which an instance was held back; of all there were where there is only one, or it was started anew. */
export function throttledShare(
  now: { all: number; throttled: number } | undefined,
  before: { all: number; throttled: number } | undefined,
): number | null {
  if (now === undefined) return null;
  const since = before !== undefined && before.all <= now.all ? before : { all: 0, throttled: 0 };
  const periods = now.all - since.all;
  return periods === 0 ? 0 : (now.throttled - since.throttled) / periods;
}
