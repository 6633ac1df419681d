import type { Job } from '../../lib/loop.js';
import type { Traffic } from './traffic.js';

/** Writes down what went out to the internet. */
export function writeTrafficJob(traffic: Traffic): Job {
  return { name: 'write egress traffic', everyMs: 5_000, run: () => traffic.flush() };
}

/** Forgets old counts. */
export function pruneTrafficJob(traffic: Traffic): Job {
  return { name: 'prune egress traffic', everyMs: 3_600_000, run: () => traffic.prune() };
}

/** In case a word of a changed policy was lost. */
export function recheckEgressJob(egress: { recheckAll(): Promise<void> }): Job {
  return { name: 'recheck egress', everyMs: 15_000, run: () => egress.recheckAll() };
}
