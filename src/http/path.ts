import type { FieldError } from '../lib/errors.js';

const MAX_PARAM_LENGTH = 256;
const PLAIN = /^[\w\-~:@.,=+!$'()*;/]{1,256}$/;
const CONVERSATIONS = /^\/chat\/conversations(?:\/|$)/;
const DOTS = /\/\.\.?(?:\/|$)/;

/**
 * The path of a request target as it was sent: not decoded, `..` not resolved, one trailing slash dropped. (node-server's own URL is
 * resolved already, which would turn `/agents/..` into another route instead of a refusal.)
 */
export function pathOfTarget(target: string): string {
  let start = 0;
  if (target.charCodeAt(0) !== 47) {
    const afterScheme = target.indexOf('://');
    start = afterScheme === -1 ? 0 : target.indexOf('/', afterScheme + 3);
    if (start === -1) return '/';
  }
  let end = start;
  for (; end < target.length; end++) {
    const code = target.charCodeAt(end);
    if (code === 63 || code === 35) break;
  }
  if (end > start + 1 && target.charCodeAt(end - 1) === 47) end -= 1;
  return target.slice(start, end);
}

/** Whether the path of a request target has a slash at its end. */
export function endsWithSlash(target: string): boolean {
  return /^[^?#]*\/(?:[?#]|$)/.test(target);
}

/** Whether the last parameter of a route takes all that is left of the path, slashes too. */
export function endsInRest(pattern: string): boolean {
  return pattern.endsWith('{.+}');
}

/**
 * The paths that a request may mean, most telling first. `/api/…` is `/api/v1/…`; what is not there is looked for under the
 * caller's own user (the flat form), then at the root (`/api/v1/health` is `/health`).
 */
export function meaningsOf(path: string): readonly string[] {
  if (!path.startsWith('/api/')) return [path];
  const rest = path.startsWith('/api/v1/') ? path.slice(7) : path.slice(4);
  // A seed's name for what is one thing whoever asks.
  if (CONVERSATIONS.test(rest)) return meaningsOf(`/api/v1${rest.slice('/chat'.length)}`);
  if (rest.startsWith('/users/')) return [`/api/v1${rest}`];
  const meanings = [`/api/v1${rest}`, `/api/v1/users/me${rest}`];
  if (!rest.startsWith('/v1/')) meanings.push(rest);
  return meanings;
}

/** Whether nothing in the path needs a closer look, as is so for nearly all. */
export function isPlainPath(path: string): boolean {
  return PLAIN.test(path) && !DOTS.test(path);
}

/** What is wrong with the parameters of a path, by name. `pattern` is Hono's: `/users/:user/files/:path{.+}`. */
export function paramProblems(path: string, pattern: string): FieldError[] {
  const parts = path.split('/');
  return pattern.split('/').flatMap((part, i) => {
    if (!part.startsWith(':')) return [];
    const takesRest = part.includes('{');
    const value = takesRest ? parts.slice(i).join('/') : (parts[i] ?? '');
    const message = paramProblem(value, takesRest);
    return message === undefined ? [] : [{ path: `path.${part.slice(1).replace(/\{.*$/, '')}`, message }];
  });
}

function paramProblem(raw: string, takesRest: boolean): string | undefined {
  if (/[^\u0021-\u007e]/.test(raw)) return 'must be percent-encoded';
  const value = decoded(raw);
  if (value === undefined) return 'is not percent-encoded UTF-8';
  if (/[\u0000-\u001f\u007f]/.test(value)) return 'must not contain control characters';
  const segments = value.split(/[/\\]/);
  if (segments.includes('.') || segments.includes('..')) return 'must not contain . or .. as a segment';
  if (takesRest) return undefined;
  if (segments.length > 1) return 'must not contain a slash';
  return value.length > MAX_PARAM_LENGTH ? `must have at most ${MAX_PARAM_LENGTH} characters` : undefined;
}

function decoded(raw: string): string | undefined {
  try {
    return decodeURIComponent(raw);
  } catch (error) {
    if (error instanceof URIError) return undefined;
    throw error;
  }
}
