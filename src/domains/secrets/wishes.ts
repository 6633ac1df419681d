import { AppError, type FieldError } from '../../lib/errors.js';
import { problemOfVariable } from './names.schema.js';
import { MAX_SCOPE_COUNT, MAX_VALUE_BYTES } from './secrets.schema.js';

/** What a caller wishes of one name. */
export type Wish = { is: 'plain'; bytes: Buffer } | { is: 'sealed'; keyId: string; box: Buffer } | { is: 'gone' };

/** A sealed box is 48 bytes longer than what is in it. */
const MAX_BOX_BYTES = MAX_VALUE_BYTES + 48;
const FIELDS_AT_MOST = 20;
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

/** The wishes in a body, by name. Throws `invalid_request` with every name that is wrong; nothing of a value is in it. */
export function readWishes(body: Record<string, unknown>): Map<string, Wish> {
  const wishes = new Map<string, Wish>();
  const fields: FieldError[] = [];
  const entries = Object.entries(body);
  if (entries.length === 0) fields.push({ path: 'body', message: 'must name at least one secret' });
  if (entries.length > 2 * MAX_SCOPE_COUNT) fields.push({ path: 'body', message: `must name at most ${2 * MAX_SCOPE_COUNT}` });
  for (const [name, value] of fields.length === 0 ? entries : []) {
    const problem = problemOfVariable(name);
    const wish = problem === undefined ? readWish(name, value) : { path: name, message: problem };
    if ('is' in wish) wishes.set(name, wish);
    else fields.push({ ...wish, path: wish.path.slice(0, 160) });
  }
  refuse(fields);
  return wishes;
}

/** Throws `invalid_request` if there is anything wrong. */
export function refuse(fields: FieldError[]): void {
  if (fields.length > 0) throw new AppError('invalid_request', 'invalid request', { fields: fields.slice(0, FIELDS_AT_MOST) });
}

/** What keeps bytes from being the value of an environment variable. */
export function problemOfValue(bytes: Buffer): string | undefined {
  if (bytes.length > MAX_VALUE_BYTES) return `must have at most ${MAX_VALUE_BYTES} bytes`;
  if (bytes.includes(0)) return 'must not contain NUL';
  return undefined;
}

function readWish(name: string, value: unknown): Wish | FieldError {
  if (value === null) return { is: 'gone' };
  if (typeof value === 'string') return readPlain(name, value);
  if (typeof value === 'object' && !Array.isArray(value) && 'encrypted_value' in value) return readSealed(name, value);
  return { path: name, message: 'must be a string, null, or {"encrypted_value", "key_id"}' };
}

function readPlain(name: string, value: string): Wish | FieldError {
  if (/\p{Surrogate}/u.test(value)) return { path: name, message: 'must be text: it holds half a surrogate pair' };
  const bytes = Buffer.from(value, 'utf8');
  const message = problemOfValue(bytes);
  return message === undefined ? { is: 'plain', bytes } : { path: name, message };
}

function readSealed(name: string, value: object): Wish | FieldError {
  const { encrypted_value: text, key_id: keyId, ...rest } = value as Record<string, unknown>;
  const [unknown] = Object.keys(rest);
  if (unknown !== undefined) return { path: `${name}.${unknown}`, message: 'is not a known field' };
  if (typeof keyId !== 'string') return { path: `${name}.key_id`, message: 'is required' };
  if (typeof text !== 'string' || text.length > Math.ceil(MAX_BOX_BYTES / 3) * 4 || !BASE64.test(text))
    return { path: `${name}.encrypted_value`, message: `must be base64 of at most ${MAX_BOX_BYTES} bytes` };
  return { is: 'sealed', keyId, box: Buffer.from(text, 'base64') };
}
