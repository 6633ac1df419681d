import type { Job } from '../../lib/loop.js';
import type { Audit } from './audit.js';

/** All that the audit does by itself. */
export function auditJobs(audit: Audit): Job[] {
  return [sealAuditJob(audit), tidyAuditJob(audit), forgetStrangersJob(audit)];
}

/** Links what was written of late into the chain. */
function sealAuditJob(audit: Audit): Job {
  return { name: 'seal audit', everyMs: 1_000, run: (signal) => audit.seal(signal) };
}

/** Ends what dead processes began, and writes how often what was refused. */
function tidyAuditJob(audit: Audit): Job {
  return { name: 'tidy audit', everyMs: 60_000, run: () => audit.tidy() };
}

/** Forgets where those came from who had no key. */
function forgetStrangersJob(audit: Audit): Job {
  return { name: 'forget strangers', everyMs: 60 * 60_000, run: (signal) => audit.forgetStrangers(signal) };
}
