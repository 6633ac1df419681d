import type { Job } from '../../lib/loop.js';
import type { Checks } from './checks.js';
import type { Notifications } from './notifications.js';

/** Measures what rules watch, when that is due. */
export function checkRulesJob(checks: Checks, everyMs = 5_000): Job {
  return { name: 'check notification rules', everyMs, run: (signal) => checks.run(signal) };
}

/** Forgets old notifications. */
export function pruneNotificationsJob(notifications: Notifications): Job {
  return { name: 'prune notifications', everyMs: 600_000, run: (signal) => notifications.prune(signal) };
}
