import { HTTPException } from 'hono/http-exception';
import { AppError, type ErrorCode, type FieldError } from '../lib/errors.js';
import { placeOfJsonError } from './json-place.js';

/** The one table from code to HTTP status. */
const STATUS: Record<ErrorCode, number> = {
  invalid_request: 400,
  unauthorized: 401,
  forbidden: 403,
  limit_exceeded: 403,
  not_found: 404,
  no_route: 404,
  method_not_allowed: 405,
  request_timeout: 408,
  conflict: 409,
  precondition_failed: 412,
  payload_too_large: 413,
  unsupported_media_type: 415,
  range_not_satisfiable: 416,
  unprocessable: 422,
  upgrade_required: 426,
  rate_limited: 429,
  internal: 500,
  upstream_error: 502,
  unavailable: 503,
  timeout: 504,
  insufficient_storage: 507,
};

/** Whether an error is one that clients are expected to make: 4xx. */
export function isOfClient(code: ErrorCode): boolean {
  return STATUS[code] < 500;
}

/** What OpenAI's own API calls these; everything else keeps Berth's code. */
const OPENAI_CODES: Partial<Record<ErrorCode, string>> = {
  unauthorized: 'invalid_api_key',
  not_found: 'model_not_found',
  no_route: 'unknown_url',
  rate_limited: 'rate_limit_exceeded',
  limit_exceeded: 'insufficient_quota',
  internal: 'internal_error',
};

/** An error as a client may see it: the body of every failed answer, and the data of an in-stream error event. */
export interface ErrorAnswer {
  error: string;
  detail: string;
  code: ErrorCode;
  request_id: string;
  fields?: FieldError[];
}

export interface OpenAiErrorAnswer {
  error: { message: string; type: string; code: string; param: string | null };
}

/**
 * Whatever was thrown, as the error that the client gets. Only an `AppError` speaks to clients; anything else is `internal`. The
 * message of an AppError is shown, also with 502, 503 and 504 (an agent that is not ready, an engine that does not answer): whoever
 * throws one writes it for the tenant. A 500 says "internal server error" whatever its message was; causes are in the log alone.
 */
export function publicError(thrown: unknown, bodyText?: string): AppError {
  if (thrown instanceof AppError) {
    return thrown.code === 'internal' ? new AppError('internal', 'internal server error', { cause: thrown }) : thrown;
  }
  if (thrown instanceof HTTPException) return fromHono(thrown, bodyText);
  return new AppError('internal', 'internal server error', { cause: thrown });
}

export function errorAnswer(error: AppError, requestId: string): ErrorAnswer {
  const first = error.fields?.[0];
  const answer: ErrorAnswer = {
    error: error.message,
    detail: first ? `${first.path}: ${first.message}` : error.message,
    code: error.code,
    request_id: requestId,
  };
  if (error.fields) answer.fields = error.fields;
  return answer;
}

/** The same error in OpenAI's shape (https://platform.openai.com/docs/guides/error-codes), for `/v1` and the LLM gateway. */
export function openAiErrorAnswer(error: AppError): OpenAiErrorAnswer {
  const first = error.fields?.[0];
  return {
    error: {
      message: first ? `${error.message}: ${first.path}: ${first.message}` : error.message,
      type: openAiType(error.code),
      code: OPENAI_CODES[error.code] ?? error.code,
      param: first?.path ?? null,
    },
  };
}

export function errorResponse(error: AppError, requestId: string, openAi: boolean): Response {
  const headers: Record<string, string> = { 'Content-Type': 'application/json' };
  if (error.retryAfterS !== undefined) headers['Retry-After'] = String(Math.max(1, Math.ceil(error.retryAfterS)));
  if (error.code === 'unauthorized') headers['WWW-Authenticate'] = 'Bearer realm="berth"';
  const body = openAi ? openAiErrorAnswer(error) : errorAnswer(error, requestId);
  // OpenAI answers a quota that is used up with 429, and its clients know it by that.
  const status = openAi && error.code === 'limit_exceeded' ? 429 : STATUS[error.code];
  return new Response(JSON.stringify(body), { status, headers });
}

function openAiType(code: ErrorCode): string {
  if (code === 'rate_limited') return 'rate_limit_error';
  if (code === 'limit_exceeded') return 'insufficient_quota';
  if (code === 'forbidden') return 'permission_error';
  return STATUS[code] >= 500 ? 'server_error' : 'invalid_request_error';
}

/** Hono's own exceptions: its validators throw 400 for a body that does not parse and 415 for a media type not declared. */
function fromHono(thrown: HTTPException, bodyText: string | undefined): AppError {
  if (thrown.status === 415) return new AppError('unsupported_media_type', 'unsupported media type');
  if (thrown.status !== 400) return new AppError('internal', 'internal server error', { cause: thrown });
  const message = bodyText === undefined ? 'is not well-formed' : placeOfJsonError(bodyText);
  return new AppError('invalid_request', 'malformed request body', { fields: [{ path: 'body', message }] });
}
