/** What came back of an attempt to send something over HTTP. */
export interface Reply {
  /** undefined where there was no answer. */
  status?: number | undefined;
  error?: string | undefined;
  /** The answer's header. */
  retryAfter?: string | undefined;
}

/** What came of an attempt to send something. */
export interface Outcome {
  /** undefined: it arrived. */
  error?: string | undefined;
  /** Another attempt would come to the same. */
  isFinal?: boolean | undefined;
  /** It failed on Berth's side, such as at the operator's mail server: that says nothing of the receiver. */
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

/** After so long without an attempt that went well, a receiver is taken for dead. */
export const DEAD_AFTER_S = 24 * 3_600;

const RETRY_AFTER_AT_MOST_S = 3_600;

/** What a receiver's answer comes to; of `Retry-After`, seconds alone are understood. */
export function outcomeOf({ status, error, retryAfter }: Reply): Outcome {
  if (status === undefined) return { error: error ?? 'no answer' };
  if (status >= 200 && status < 300) return {};
  const retryAfterS = retryAfter !== undefined && /^\d{1,6}$/.test(retryAfter) ? Number(retryAfter) : undefined;
  return { error: `the receiver answered ${status}`, isGone: status === 410, retryAfterS };
}

/** `tries` counts this attempt. A receiver may ask for a longer wait, not for a shorter one. */
export function verdictOn(outcome: Outcome, tries: number, retriesS: readonly number[] = RETRIES_S): Verdict {
  if (outcome.error === undefined) return { status: 'delivered' };
  const waitS = retriesS[tries - 1];
  if (waitS === undefined || outcome.isFinal === true || outcome.isGone === true) return { status: 'failed' };
  return { status: 'pending', inS: Math.max(waitS, Math.min(outcome.retryAfterS ?? 0, RETRY_AFTER_AT_MOST_S)) };
}

/** Why nothing more is to be sent there after an attempt, if so. `isDead`: it has failed for too long. */
export function reasonToDisable({ isGone }: Outcome, { status }: Verdict, isDead: boolean): string | undefined {
  if (isGone === true) return 'the receiver answered 410 Gone';
  return status === 'failed' && isDead ? 'every attempt has failed for too long' : undefined;
}
