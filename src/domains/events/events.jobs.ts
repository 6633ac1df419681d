import type { Job } from '../../lib/loop.js';
import type { Events } from './events.js';

/** Forgets events that are older than they are to be kept, and tickets that nobody used. */
export function pruneEventsJob(events: Events): Job {
  return { name: 'prune events', everyMs: 600_000, run: (signal) => events.prune(signal) };
}
