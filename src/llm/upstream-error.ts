import { ProviderError, type ProviderErrorKind } from './provider.js';
import { redact } from './redact.js';

/** What an upstream answered in place of a completion. */
export interface Refusal {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  /** The start of its body. */
  body: string;
}

/**
 * The error for an answer with a status other than 200. Only the words of a refused request reach the tenant, redacted: they say
 * what to change. Those of 401, 403, 429 and 5xx name Berth's own account and are replaced.
 */
export function refusalError(refusal: Refusal, secrets: readonly string[], nowMs: number = Date.now()): ProviderError {
  const { status } = refusal;
  const kind = kindOfStatus(status);
  const cause = new Error(`status ${status}: ${redact(refusal.body, secrets)}`);
  const retryAfterS = retryAfter(refusal.headers, nowMs);
  return new ProviderError(
    kind,
    messageOfStatus(kind, refusal, secrets),
    retryAfterS === undefined ? { cause } : { cause, retryAfterS },
  );
}

function kindOfStatus(status: number): ProviderErrorKind {
  if (status === 401 || status === 402 || status === 403) return 'auth';
  if (status === 429) return 'rate_limited';
  if (status >= 400 && status < 500 && status !== 408) return 'bad_request';
  return 'upstream';
}

function messageOfStatus(kind: ProviderErrorKind, { status, body }: Refusal, secrets: readonly string[]): string {
  if (kind === 'auth') return `The provider refused Berth's credentials (${status})`;
  if (kind === 'rate_limited') return 'The provider limits the rate of requests; try again later';
  if (kind === 'bad_request') return messageIn(body, secrets) ?? `The provider refused the request (${status})`;
  if (status >= 300 && status < 400) return `The provider answered with a redirect (${status}), which is not followed`;
  return `The provider failed (${status})`;
}

/** `error.message` of an OpenAI or Anthropic error body, redacted; undefined where the body is something else. */
function messageIn(body: string, secrets: readonly string[]): string | undefined {
  try {
    const parsed = JSON.parse(body) as { error?: { message?: unknown } | string; message?: unknown } | null;
    const error = parsed?.error;
    const message = typeof error === 'string' ? error : (error?.message ?? parsed?.message);
    return typeof message === 'string' && message !== '' ? redact(message, secrets) : undefined;
  } catch {
    // Not JSON: a page or plain text of some proxy, which says nothing that a tenant can act on.
    return undefined;
  }
}

const IN_STREAM_KINDS: Record<string, ProviderErrorKind> = {
  authentication_error: 'auth',
  permission_error: 'auth',
  billing_error: 'auth',
  rate_limit_error: 'rate_limited',
  rate_limit_exceeded: 'rate_limited',
  tokens: 'rate_limited',
  requests: 'rate_limited',
  insufficient_quota: 'rate_limited',
  invalid_request_error: 'bad_request',
  not_found_error: 'bad_request',
  request_too_large: 'bad_request',
  context_length_exceeded: 'bad_request',
  content_filter: 'bad_request',
};

/** The error for an `{"error": …}` object that came in a stream, or in a body with status 200. */
export function inStreamError(error: unknown, secrets: readonly string[]): ProviderError {
  const { type, code, message } = (typeof error === 'object' && error !== null ? error : { message: error }) as Record<
    string,
    unknown
  >;
  const kind = IN_STREAM_KINDS[String(type)] ?? IN_STREAM_KINDS[String(code)] ?? 'upstream';
  const words = typeof message === 'string' && message !== '' ? redact(message, secrets) : undefined;
  const cause = new Error(`in-stream error of type ${redact(String(type ?? code ?? 'unknown'), secrets)}: ${words ?? ''}`);
  if (kind === 'bad_request') return new ProviderError(kind, words ?? 'The provider refused the request', { cause });
  if (kind === 'auth') return new ProviderError(kind, "The provider refused Berth's credentials", { cause });
  if (kind === 'rate_limited')
    return new ProviderError(kind, 'The provider limits the rate of requests; try again later', { cause });
  return new ProviderError(kind, 'The provider failed in the midst of the answer', { cause });
}

const MAX_RETRY_AFTER_S = 3600;

/** Whole seconds of `retry-after-ms` or `Retry-After` (seconds or a date, RFC 9110 10.2.3), between 1 and 3600. */
function retryAfter(headers: Refusal['headers'], nowMs: number): number | undefined {
  const milliseconds = Number(headers['retry-after-ms'] ?? NaN);
  const text = String(headers['retry-after'] ?? '').trim();
  const seconds = /^\d+(\.\d+)?$/.test(text) ? Number(text) : (Date.parse(text) - nowMs) / 1000;
  const wanted = Number.isFinite(milliseconds) ? milliseconds / 1000 : seconds;
  if (!Number.isFinite(wanted)) return undefined;
  return Math.min(MAX_RETRY_AFTER_S, Math.max(1, Math.ceil(wanted)));
}
