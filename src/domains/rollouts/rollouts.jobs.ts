import type { Job } from '../../lib/loop.js';
import type { Rollouts } from './rollouts.js';

/** Takes rollouts further. One query a second where there is none. */
export function advanceRolloutsJob(rollouts: Rollouts): Job {
  return { name: 'advance rollouts', everyMs: 1_000, run: () => rollouts.advance() };
}
