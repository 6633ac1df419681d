import type { Job } from '../../lib/loop.js';
import type { LogCollection } from './collecting.js';
import type { Logs } from './logs.js';

/** An instance changes several times while it starts, with somebody waiting for its first word. */
const GATHER_MS = 50;

/** Brings in what instances print. Woken by the bus when an instance changed; often enough to keep the leases. */
export function collectLogsJob(collection: LogCollection): Job {
  return { name: 'collect logs', everyMs: 3_000, gatherMs: GATHER_MS, run: () => collection.run() };
}

/** Removes what is kept no longer. Woken when a tier changed, or a segment is full. */
export function pruneLogsJob(logs: Logs): Job {
  return { name: 'prune logs', everyMs: 3_600_000, run: () => logs.prune() };
}
