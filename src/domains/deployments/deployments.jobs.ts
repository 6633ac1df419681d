import type { LinkHost } from '../../link/host.js';
import type { Job } from '../../lib/loop.js';
import type { Admission } from './admission.js';
import type { Deployments } from './deployments.js';
import type { Pool } from './pool.js';
import type { Vitals } from './vitals.js';

export interface RestJobOptions {
  deployments: Deployments;
  links: LinkHost;
  /** How often uses are noted; 5 s unless told. Idle times shorter than some of these are not kept exactly. */
  everyMs?: number | undefined;
  /** How long one stays paused before it is stopped; 15 minutes unless told. */
  pausedS?: number | undefined;
}

/** Notes which deployments this process uses, then lets those rest that nobody did. Requests write nothing for it. */
export function restJob({ deployments, links, everyMs = 5_000, pausedS = 900 }: RestJobOptions): Job {
  let sinceMs = performance.now();
  return {
    name: 'rest',
    everyMs,
    async run() {
      const beganMs = performance.now();
      await deployments.noteUse(links.inUse(sinceMs));
      sinceMs = beganMs;
      await deployments.restIdle(pausedS);
    },
  };
}

/** Keeps the pool full: one query of an index a second where it is. */
export function fillPoolJob(pool: Pool): Job {
  return { name: 'fill the pool', everyMs: 1_000, run: () => pool.fill() };
}

/** Measures what is due. One that has just become ready is, so that its figures are there soon. */
export function measureJob(vitals: Vitals, everyMs = 5_000): Job {
  return { name: 'measure', everyMs, run: (signal) => vitals.measure(signal) };
}

/** Lets those start who wait for room on the host. One query of an index a second where nobody does; woken where something changes and somebody does. */
export function admitJob(admission: Admission): Job {
  return { name: 'admit', everyMs: 1_000, run: () => admission.admit() };
}
