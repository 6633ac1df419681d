import type { Job } from '../../lib/loop.js';
import type { Usage } from './usage.js';

/** Settles rows whose process died before it could. */
export function usageJob(usage: Usage): Job {
  return { name: 'settle abandoned usage', everyMs: 15_000, run: () => usage.settleAbandoned() };
}
