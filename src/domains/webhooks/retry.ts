/** What came of an attempt. */
export interface Outcome {
  /** HTTP status of the answer; undefined where none came. */
  status?: number | undefined;
  error?: string | undefined;
  /** The answer's header. */
  retryAfter?: string | undefined;
}

/** What becomes of a delivery after an attempt. */
export type Verdict =
  | { status: 'delivered' }
  | { status: 'failed' }
  /** Tried again in so long; `inOrder`: and what came later waits for that. */
  | { status: 'pending'; inS: number; inOrder: boolean };

/** Waits after each attempt that failed: about a day in all. */
export const RETRIES_S = [5, 30, 120, 600, 3_600, 3 * 3_600, 8 * 3_600, 12 * 3_600];

/** After so many attempts, later events do not wait for this one any more. */
export const IN_ORDER_TRIES = 4;

const RETRY_AFTER_AT_MOST_S = 3_600;

export function isSuccess({ status }: Outcome): boolean {
  return status !== undefined && status >= 200 && status < 300;
}

/** Whether the receiver says that it wants no more. */
export function isGone({ status }: Outcome): boolean {
  return status === 410;
}

/** `tries` counts this attempt. A receiver may ask for a longer wait (`Retry-After` in seconds), not for a shorter one. */
export function verdictOn(outcome: Outcome, tries: number, retriesS: readonly number[] = RETRIES_S): Verdict {
  if (isSuccess(outcome)) return { status: 'delivered' };
  const waitS = retriesS[tries - 1];
  if (waitS === undefined || isGone(outcome)) return { status: 'failed' };
  return { status: 'pending', inS: Math.max(waitS, askedFor(outcome)), inOrder: tries < IN_ORDER_TRIES };
}

function askedFor({ retryAfter }: Outcome): number {
  return retryAfter !== undefined && /^\d{1,6}$/.test(retryAfter) ? Math.min(Number(retryAfter), RETRY_AFTER_AT_MOST_S) : 0;
}
