import type { Context } from 'hono';
import { AppError } from '../lib/errors.js';

/** The version that the caller saw (`If-Match: "3"`), if it says one; `*` and absence guard nothing. */
export function ifMatch(c: Context): number | undefined {
  const header = c.req.header('if-match');
  if (header === undefined || header.trim() === '*') return undefined;
  const match = /^"(\d{1,9})"$/.exec(header.trim());
  if (match) return Number(match[1]);
  throw new AppError('invalid_request', 'invalid If-Match', {
    fields: [{ path: 'If-Match', message: 'must be one version in quotes, as in ETag: "3"' }],
  });
}

/** Answers it with its version as the `ETag`, for the `If-Match` of the next write. */
export function tagged<T extends { version: number }>(c: Context, answer: T) {
  c.header('ETag', `"${answer.version}"`);
  return c.json(answer, 200);
}
