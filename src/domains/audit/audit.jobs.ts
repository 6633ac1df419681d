import type { Job } from '../../lib/loop.js';
import type { Audit } from './audit.js';

/** Links what was written of late into the chain. */
export function sealAuditJob(audit: Audit): Job {
  return { name: 'seal audit', everyMs: 1_000, run: (signal) => audit.seal(signal) };
}

/** Ends what dead processes began, and writes how often what was refused. */
export function tidyAuditJob(audit: Audit): Job {
  return { name: 'tidy audit', everyMs: 60_000, run: () => audit.tidy() };
}

/** Forgets where those came from who had no key. */
export function forgetStrangersJob(audit: Audit): Job {
  return { name: 'forget strangers', everyMs: 60 * 60_000, run: (signal) => audit.forgetStrangers(signal) };
}
