/** Every way a request can fail, as a word. `http/errors.ts` is the one table from code to HTTP status. */
export type ErrorCode =
  | 'invalid_request'
  | 'unauthorized'
  | 'forbidden'
  | 'not_found'
  | 'no_route'
  | 'method_not_allowed'
  | 'conflict'
  | 'precondition_failed'
  | 'payload_too_large'
  | 'range_not_satisfiable'
  | 'request_timeout'
  | 'insufficient_storage'
  | 'unsupported_media_type'
  | 'unprocessable'
  | 'upgrade_required'
  | 'limit_exceeded'
  | 'rate_limited'
  | 'unavailable'
  | 'upstream_error'
  | 'timeout'
  | 'internal';

/** One thing wrong with a request: where it is and what is allowed. It never carries the rejected value. */
export interface FieldError {
  path: string;
  message: string;
}

export interface AppErrorOptions {
  cause?: unknown;
  fields?: FieldError[];
  /** Seconds after which trying again makes sense; becomes `Retry-After`. */
  retryAfterS?: number;
  /** Headers that the answer needs beside the error, such as the `Content-Range` of a 416. */
  headers?: Record<string, string>;
}

/** The one error that domains throw on purpose. Anything else that reaches the edge is a 500. */
export class AppError extends Error {
  readonly code: ErrorCode;
  readonly fields: FieldError[] | undefined;
  readonly retryAfterS: number | undefined;
  readonly headers: Record<string, string> | undefined;

  constructor(code: ErrorCode, message: string, options: AppErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'AppError';
    this.code = code;
    this.fields = options.fields;
    this.retryAfterS = options.retryAfterS;
    this.headers = options.headers;
  }
}

/** A request of which that one field is wrong. */
export function wrongField(path: string, message: string, cause?: unknown): AppError {
  return new AppError('invalid_request', 'invalid request', { cause, fields: [{ path, message }] });
}

/** `unavailable`, and the other side has seen nothing of the request: it may be made again without being carried out twice. */
export class NotSent extends AppError {
  constructor(message: string, options: { cause?: unknown } = {}) {
    super('unavailable', message, { ...options, retryAfterS: 1 });
    this.name = 'NotSent';
  }
}

/** The message of anything thrown, for logs and for plain-word failure reasons. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
