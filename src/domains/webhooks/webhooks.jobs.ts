import type { Job } from '../../lib/loop.js';
import type { Webhooks } from './webhooks.js';

/** Forgets what was sent long ago. */
export function pruneDeliveriesJob(webhooks: Webhooks): Job {
  return { name: 'prune webhook deliveries', everyMs: 600_000, run: (signal) => webhooks.prune(signal) };
}
