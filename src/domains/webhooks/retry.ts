import { outcomeOf, type Reply, type Verdict as PlainVerdict, verdictOn as plainVerdictOn } from '../../lib/attempt.js';

/** What becomes of a delivery after an attempt; `inOrder`: what came later waits for it. */
export type Verdict = PlainVerdict & { inOrder?: boolean };

/** After so many attempts, later events do not wait for this one any more. */
export const IN_ORDER_TRIES = 4;

/** `tries` counts this attempt. */
export function verdictOn(reply: Reply, tries: number, retriesS?: readonly number[]): Verdict {
  const verdict = plainVerdictOn(outcomeOf(reply), tries, retriesS);
  return verdict.status === 'pending' ? { ...verdict, inOrder: tries < IN_ORDER_TRIES } : verdict;
}
