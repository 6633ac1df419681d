import { AppError } from '../../lib/errors.js';

const MAX_PATH_BYTES = 4_096;
const MAX_SEGMENT_BYTES = 255;
const MAX_DEPTH = 64;

/**
 * The path of a file below an agent's workspace, checked: segments between slashes, each a name that Linux can hold. Whatever Unicode it
 * is stays as it was sent. (Where links lead is looked at by the instance: only there can it be.) Throws `invalid_request` naming `field`.
 */
export function filePath(text: string, field: string): string {
  const message = pathProblem(text);
  if (message !== undefined) throw new AppError('invalid_request', 'invalid path', { fields: [{ path: field, message }] });
  return text;
}

/** The same where nothing means the workspace itself. */
export function folderPath(text: string, field: string): string {
  const inner = text.replace(/^\.?\/?$/, '').replace(/\/$/, '');
  return inner === '' ? '' : filePath(inner, field);
}

/** What is wrong with a path; undefined where nothing is. */
export function pathProblem(text: string): string | undefined {
  if (text === '') return 'must not be empty';
  if (text.startsWith('/')) return 'must be relative to the workspace: without a slash at its beginning';
  // oxlint-disable-next-line no-control-regex
  if (/[\u0000-\u001f\u007f]/.test(text)) return 'must not contain control characters';
  if (/\p{Surrogate}/u.test(text)) return 'must be well-formed Unicode';
  if (Buffer.byteLength(text) > MAX_PATH_BYTES) return `must have at most ${MAX_PATH_BYTES} bytes`;
  const segments = text.split('/');
  if (segments.length > MAX_DEPTH) return `must be at most ${MAX_DEPTH} names deep`;
  if (segments.includes('')) return 'must not have two slashes in a row, nor one at its end';
  if (segments.includes('.') || segments.includes('..')) return 'must not contain . or .. as a segment';
  if (segments.some((segment) => Buffer.byteLength(segment) > MAX_SEGMENT_BYTES))
    return `must not contain a name of more than ${MAX_SEGMENT_BYTES} bytes`;
  return undefined;
}

/** The last name of a path. */
export function nameIn(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}
