import type { ZodError } from 'zod';
import { AppError, type FieldError } from '../lib/errors.js';

type Issue = ZodError['issues'][number];

const MAX_FIELDS = 20;
const PREFIX: Record<string, string> = {
  query: 'query.',
  param: 'path.',
  header: 'header.',
  cookie: 'cookie.',
  json: '',
  form: '',
};

/** What a failed validation becomes: 400, each field by path, never with the rejected value. Zod's own messages hold none. */
export function validationError(target: string, error: ZodError): AppError {
  const fields = error.issues.flatMap((issue) => fieldsOf(issue, PREFIX[target] ?? '', []));
  return new AppError('invalid_request', 'invalid request', { fields: fields.slice(0, MAX_FIELDS) });
}

function fieldsOf(issue: Issue, prefix: string, above: readonly PropertyKey[]): FieldError[] {
  const path = [...above, ...issue.path];
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => ({ path: pathText(prefix, [...path, key]), message: 'is not a known field' }));
  }
  if (issue.code === 'invalid_union') {
    const branch = closestBranch(issue.errors);
    if (branch) return branch.flatMap((inner) => fieldsOf(inner, prefix, path));
  }
  if (issue.code === 'invalid_key') return issue.issues.flatMap((inner) => fieldsOf(inner, prefix, path));
  return [{ path: pathText(prefix, path), message: wordsOf(issue) }];
}

/** Of the branches of a union, the one the value came closest to: the first whose complaints lie inside the value, not at its root. */
function closestBranch(branches: readonly (readonly Issue[])[]): readonly Issue[] | undefined {
  const inside = branches.filter(
    (issues) => issues.length > 0 && issues.every((issue) => issue.path.length > 0 || issue.code !== 'invalid_type'),
  );
  return inside.length === 0 ? undefined : inside.reduce((best, issues) => (issues.length < best.length ? issues : best));
}

function pathText(prefix: string, path: readonly PropertyKey[]): string {
  const text = path.map((part) => String(part).slice(0, 64)).join('.');
  return text === '' ? (prefix === '' ? 'body' : prefix.slice(0, -1)) : prefix + text;
}

/** The schema's own message where it has one; in place of Zod's, plain words. */
function wordsOf(issue: Issue): string {
  if (isMissing(issue)) return 'is required';
  if (issue.code === 'too_small' && issue.message.startsWith('Too small: ')) {
    return limitWords(issue.origin, issue.inclusive === false ? 'more than' : 'at least', issue.minimum);
  }
  if (issue.code === 'too_big' && issue.message.startsWith('Too big: ')) {
    return limitWords(issue.origin, issue.inclusive === false ? 'less than' : 'at most', issue.maximum);
  }
  if (issue.code === 'invalid_union' && issue.message === 'Invalid input') return 'has none of the forms that are allowed here';
  return decapitalised(issue.message);
}

/** Zod leaves the input out of its issues, so that only its own message tells a missing field from one of another type. */
function isMissing(issue: Issue): boolean {
  if (issue.code === 'invalid_type') return /^Invalid input: .*, received undefined$/.test(issue.message);
  return issue.code === 'invalid_union' && issue.errors.length > 0 && issue.errors.every((branch) => branch.some(isMissingHere));
}

function isMissingHere(issue: Issue): boolean {
  return issue.path.length === 0 && isMissing(issue);
}

function limitWords(origin: string, bound: string, limit: number | bigint): string {
  const one = Number(limit) === 1;
  if (origin === 'string') {
    if (one && bound === 'at least') return 'must not be empty';
    return `must have ${bound} ${limit} ${one ? 'character' : 'characters'}`;
  }
  if (['array', 'set'].includes(origin)) return `must hold ${bound} ${limit} ${one ? 'entry' : 'entries'}`;
  return `must be ${bound} ${limit}`;
}

function decapitalised(message: string): string {
  return message.replace(/^Invalid input: /, '').replace(/^[A-Z](?=[a-z])/, (letter) => letter.toLowerCase());
}
