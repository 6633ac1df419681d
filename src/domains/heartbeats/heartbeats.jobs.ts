import type { Job } from '../../lib/loop.js';
import type { Heartbeats } from './heartbeats.js';

/** Wakes the agents that are due, and decides when those are of which something changed. */
export function beatJob(heartbeats: Heartbeats, everyMs = 5_000): Job {
  return {
    name: 'heartbeats',
    everyMs,
    async run(signal) {
      await heartbeats.settleLost();
      await heartbeats.plan();
      await heartbeats.beat(signal);
    },
  };
}

/** Forgets old runs. */
export function pruneBeatsJob(heartbeats: Heartbeats): Job {
  return { name: 'prune heartbeats', everyMs: 3_600_000, run: () => heartbeats.prune() };
}
