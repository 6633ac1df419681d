import type { Job } from '../../lib/loop.js';
import type { Users } from './users.js';

/** Erases users whose last container is gone. Woken by the bus when a deployment went. */
export function eraseUsersJob(users: Users): Job {
  return { name: 'erase users', everyMs: 5_000, run: () => users.eraseGone() };
}
