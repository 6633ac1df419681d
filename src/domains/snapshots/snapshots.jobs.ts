import type { Job } from '../../lib/loop.js';
import type { Snapshots } from './snapshots.js';

/** All that happens to snapshots by itself. */
export function snapshotJobs(snapshots: Snapshots, schedulesEveryMs?: number): Job[] {
  return [workJob(snapshots), scheduleJob(snapshots, schedulesEveryMs), sweepJob(snapshots)];
}

/** Takes up the snapshots and restores that are wished. */
function workJob(snapshots: Snapshots): Job {
  return { name: 'snapshots', everyMs: 1_000, run: () => snapshots.work() };
}

/** Wishes for those that schedules ask for, and deletes those whose time is over. */
function scheduleJob(snapshots: Snapshots, everyMs = 10_000): Job {
  return {
    name: 'snapshot schedules',
    everyMs,
    async run() {
      await snapshots.schedules.beat();
      await snapshots.expire();
    },
  };
}

/** Brings files and rows together again. */
function sweepJob(snapshots: Snapshots): Job {
  return { name: 'sweep snapshots', everyMs: 3_600_000, run: () => snapshots.sweep() };
}
