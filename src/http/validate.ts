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
  return [{ path: pathText(prefix, path), message: decapitalised(issue.message) }];
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

function decapitalised(message: string): string {
  return message.replace(/^Invalid input: /, '').replace(/^[A-Z](?=[a-z])/, (letter) => letter.toLowerCase());
}
