import { AppError, type ErrorCode } from '../lib/errors.js';
import { ProviderError, type ProviderErrorKind } from './provider.js';

/** The error of an OpenAI answer, and the status it goes with where none has been sent. */
export interface OpenAiError {
  status: number;
  retryAfterS?: number;
  error: { message: string; type: string; code: string | null; param: string | null };
}

/** A request that the LLM gateway itself refuses. */
export class RequestError extends Error {
  readonly status: number;
  readonly code: string | null;
  readonly param: string | null;
  readonly retryAfterS: number | undefined;

  constructor(status: number, message: string, options: { code?: string; param?: string; retryAfterS?: number } = {}) {
    super(message);
    this.name = 'RequestError';
    this.status = status;
    this.code = options.code ?? null;
    this.param = options.param ?? null;
    this.retryAfterS = options.retryAfterS;
  }
}

/** 401 and 403 of an upstream are 502 here: it is Berth's key that was refused, not the caller's. */
const PROVIDER_STATUS: Record<ProviderErrorKind, number> = {
  auth: 502,
  rate_limited: 429,
  bad_request: 400,
  upstream: 502,
  stalled: 504,
  cut: 502,
};

const APP_STATUS: Partial<Record<ErrorCode, number>> = {
  invalid_request: 400,
  unprocessable: 400,
  unauthorized: 401,
  forbidden: 403,
  not_found: 404,
  conflict: 409,
  limit_exceeded: 429,
  rate_limited: 429,
  unavailable: 503,
  timeout: 504,
  upstream_error: 502,
};

/** Any thrown thing as an OpenAI error. What was not thrown on purpose is an internal error without its words. */
export function openAiErrorOf(error: unknown): OpenAiError {
  if (error instanceof RequestError) return make(error.status, error.message, error);
  if (error instanceof ProviderError) {
    const open = error.kind === 'upstream' && error.retryAfterS !== undefined;
    return make(open ? 503 : PROVIDER_STATUS[error.kind], error.message, {
      code: `provider_${error.kind}`,
      retryAfterS: error.retryAfterS,
    });
  }
  const status = error instanceof AppError ? APP_STATUS[error.code] : undefined;
  if (!(error instanceof AppError) || status === undefined) return make(500, 'Internal error', { code: 'internal' });
  const code = error.code === 'limit_exceeded' ? 'insufficient_quota' : error.code;
  return make(status, error.message, { code, retryAfterS: error.retryAfterS });
}

interface Details {
  code?: string | null;
  param?: string | null;
  retryAfterS?: number;
}

function make(status: number, message: string, details: Details): OpenAiError {
  const error = { message, type: typeOf(status), code: details.code ?? null, param: details.param ?? null };
  return details.retryAfterS === undefined ? { status, error } : { status, error, retryAfterS: details.retryAfterS };
}

/** The `type` that OpenAI gives to errors of a status. */
function typeOf(status: number): string {
  if (status === 401) return 'authentication_error';
  if (status === 403) return 'permission_error';
  if (status === 429) return 'rate_limit_error';
  return status >= 500 ? 'server_error' : 'invalid_request_error';
}
