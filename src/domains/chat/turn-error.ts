import { AppError, type ErrorCode } from '../../lib/errors.js';

/** Codes of errors that a gateway reports in its stream: those of the LLM gateway, passed on, and its own. */
const CODES = new Map<string, ErrorCode>([
  ['insufficient_quota', 'limit_exceeded'],
  ['provider_rate_limited', 'rate_limited'],
  ['rate_limited', 'rate_limited'],
  ['provider_bad_request', 'invalid_request'],
  ['provider_stalled', 'timeout'],
  ['stalled', 'timeout'],
  ['timeout', 'timeout'],
  ['unavailable', 'unavailable'],
  ['unreachable', 'unavailable'],
  ['stopping', 'unavailable'],
  ['moved', 'unavailable'],
  ['removed', 'not_found'],
]);
const RETRY_AFTER_S = 5;

/** What a gateway says of a turn that failed, as the caller gets it. */
export function reportedError({ message, code }: { message: string; code: string | null }): AppError {
  const known = code === null ? undefined : CODES.get(code);
  return withRetryAfter(new AppError(known ?? 'upstream_error', message || 'the agent failed'));
}

/** The error itself; where it is one that passes, with a time after which trying again makes sense. */
export function withRetryAfter(error: AppError): AppError {
  if (error.retryAfterS !== undefined || (error.code !== 'unavailable' && error.code !== 'rate_limited')) return error;
  return new AppError(error.code, error.message, { cause: error.cause, retryAfterS: RETRY_AFTER_S });
}

/** Somebody ended the turn. */
export class TurnCancelled extends AppError {
  constructor() {
    super('conflict', 'the turn was cancelled');
    this.name = 'TurnCancelled';
  }
}
