import { AppError, messageOf } from '../../lib/errors.js';

/** The HTTP status of an engine's refusal, explained already or not; undefined when it is another kind of error. */
export function statusOf(error: unknown): number | undefined {
  const refusal = error instanceof AppError ? error.cause : error;
  const status = (refusal as { statusCode?: unknown } | undefined)?.statusCode;
  return typeof status === 'number' ? status : undefined;
}

/** What the engine itself said, without the client library's dressing. */
function engineWords(error: unknown): string {
  const said = (error as { json?: { message?: unknown } } | undefined)?.json?.message;
  const text = typeof said === 'string' ? said : messageOf(error).replace(/^\(HTTP code \d+\) [^-]*- /, '');
  return text.trim().slice(0, 500);
}

const NOT_THERE = new Set([
  'ENOENT',
  'ECONNREFUSED',
  'ENOTSOCK',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ETIMEDOUT',
  'ENOTFOUND',
  'EAI_AGAIN',
]);
const CUT_OFF = new Set(['ECONNRESET', 'EPIPE', 'ABORT_ERR', 'ERR_STREAM_PREMATURE_CLOSE']);

/** Turns whatever a call to the engine threw into an `AppError` in plain words. One that is an `AppError` already stays. */
export function explain(what: string, error: unknown): AppError {
  if (error instanceof AppError) {
    return error.code === 'timeout' ? unavailable(`the container engine does not answer (${error.message})`, error) : error;
  }
  const status = statusOf(error);
  return status === undefined ? explainLoss(what, error) : explainRefusal(what, status, error);
}

function explainLoss(what: string, error: unknown): AppError {
  const code = String((error as { code?: unknown } | undefined)?.code ?? '');
  if (NOT_THERE.has(code)) return unavailable(`the container engine is not there (${code})`, error);
  if (code === 'EACCES' || code === 'EPERM') return unavailable('no permission to use the container engine’s socket', error);
  if (CUT_OFF.has(code)) return unavailable(`the container engine cut the connection during ${what} (${code})`, error);
  if (code.startsWith('HPE_')) return unavailable('what answers is not a container engine', error);
  return new AppError('internal', `${what} failed: ${messageOf(error)}`, { cause: error });
}

function explainRefusal(what: string, status: number, error: unknown): AppError {
  const words = engineWords(error);
  if (/no space left on device|disk quota exceeded/i.test(words)) {
    return new AppError('limit_exceeded', 'the container engine’s disk is full', { cause: error });
  }
  if (/no such image|unable to find image|manifest unknown|pull access denied/i.test(words)) {
    return new AppError('unprocessable', `the agent image is missing: ${words}`, { cause: error });
  }
  if (/bind source path does not exist/i.test(words)) {
    return new AppError('unprocessable', `the link folder is missing on the engine’s host: ${words}`, { cause: error });
  }
  if (/cannot allocate memory|out of memory/i.test(words)) {
    return new AppError('limit_exceeded', `the host has no memory left for ${what}: ${words}`, { cause: error });
  }
  if (status === 502 || status === 503 || status === 504)
    return unavailable(`the container engine is not ready: ${words}`, error);
  if (status === 404) return new AppError('not_found', words, { cause: error });
  if (status === 409) return new AppError('conflict', words, { cause: error });
  if (status < 500) return new AppError('unprocessable', `the container engine refused ${what}: ${words}`, { cause: error });
  return new AppError('upstream_error', `the container engine failed at ${what}: ${words}`, { cause: error });
}

export function unavailable(message: string, cause?: unknown): AppError {
  return new AppError('unavailable', message, { cause, retryAfterS: 5 });
}
