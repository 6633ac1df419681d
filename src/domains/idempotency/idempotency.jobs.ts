import type { Job } from '../../lib/loop.js';
import type { Idempotency } from './idempotency.js';

/** Forgets requests whose day has passed. */
export function pruneIdempotencyJob(idempotency: Idempotency): Job {
  return { name: 'prune idempotency keys', everyMs: 10 * 60_000, run: (signal) => idempotency.prune(signal) };
}
