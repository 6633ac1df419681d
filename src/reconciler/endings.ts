import type { Observed } from '../runtime/runtime.js';

/** How long an instance may run without a link before it is given up. */
export const CONNECT_TIMEOUT_MS = 60_000;

/** The end of an instance in plain words, from what the engine saw. */
export function whyItEnded(observed: Observed): string {
  if (observed.error) return `the container could not run: ${observed.error}`;
  if (observed.oomKilled && observed.exitCode === 137) return 'the container ran out of memory and was killed';
  if (observed.exitCode === 137) return 'the container was killed (exit code 137)';
  const before = observed.childOomKilled ? ', after a process in it had been killed for want of memory' : '';
  return `the container ended with exit code ${observed.exitCode ?? 'unknown'}${before}`;
}
