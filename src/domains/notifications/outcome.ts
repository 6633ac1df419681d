/** What came of an attempt to send something. */
export interface Outcome {
  /** undefined: it arrived. */
  error?: string | undefined;
  /** Another attempt would come to the same. */
  isFinal?: boolean | undefined;
  /** It failed on Berth's side, such as at the operator's mail server: that says nothing of the channel. */
  isOfBerth?: boolean | undefined;
  /** The receiver wants no more at all. */
  isGone?: boolean | undefined;
  /** How long it asks to be left alone. */
  retryAfterS?: number | undefined;
}

/** What becomes of a delivery after an attempt. */
export type Verdict = { status: 'delivered' } | { status: 'failed' } | { status: 'pending'; inS: number };

/** Waits after each attempt that failed: about a day in all. */
export const RETRIES_S = [5, 30, 120, 600, 3_600, 3 * 3_600, 8 * 3_600, 12 * 3_600];

const RETRY_AFTER_AT_MOST_S = 3_600;

/** `tries` counts this attempt. */
export function verdictOn(outcome: Outcome, tries: number, retriesS: readonly number[] = RETRIES_S): Verdict {
  if (outcome.error === undefined) return { status: 'delivered' };
  const waitS = retriesS[tries - 1];
  if (waitS === undefined || outcome.isFinal === true || outcome.isGone === true) return { status: 'failed' };
  return { status: 'pending', inS: Math.max(waitS, Math.min(outcome.retryAfterS ?? 0, RETRY_AFTER_AT_MOST_S)) };
}
