import { AppError } from '../../lib/errors.js';
import { MAX_SCOPE_BYTES, MAX_SCOPE_COUNT, MAX_USER_BYTES, MAX_USER_COUNT } from './secrets.schema.js';
import type { SecretRow } from './secrets.store.js';

/** What a map of wishes comes to. */
export interface Change {
  set: { name: string; version: number; value: Buffer }[];
  deleted: string[];
}

/** How much longer a value is once it is sealed. */
const SEALED_MORE_BYTES = 49;

/** The difference between what is there and what is wished: the value that it has already is no change, nor is the deletion of what is not there. */
export function changesOf(
  before: SecretRow[],
  given: Map<string, Buffer | undefined>,
  open: (row: SecretRow) => Buffer | undefined,
): Change {
  const there = new Map(before.map((row) => [row.name, row]));
  const change: Change = { set: [], deleted: [] };
  for (const [name, value] of given) {
    const row = there.get(name);
    if (value === undefined) {
      if (row) change.deleted.push(name);
    } else if (!row || !open(row)?.equals(value)) {
      change.set.push({ name, version: (row?.version ?? 0) + 1, value });
    }
  }
  return change;
}

/** Throws `limit_exceeded` where a scope, or the user in all, would have more than fits. What only shrinks is never refused. */
export function checkRoom(before: SecretRow[], { set, deleted }: Change, elsewhere: { count: number; bytes: number }): void {
  if (set.length === 0) return;
  const gone = new Set([...deleted, ...set.map(({ name }) => name)]);
  const kept = before.filter(({ name }) => !gone.has(name));
  const count = kept.length + set.length;
  const bytes = sum(kept.map(({ value }) => value.length - SEALED_MORE_BYTES)) + sum(set.map(({ value }) => value.length));
  const otherBytes = elsewhere.bytes - elsewhere.count * SEALED_MORE_BYTES;
  if (count > MAX_SCOPE_COUNT) refuse(`at most ${MAX_SCOPE_COUNT} secrets; this would make ${count}`);
  if (bytes > MAX_SCOPE_BYTES) refuse(`at most ${MAX_SCOPE_BYTES} bytes of values; this would make ${bytes}`);
  if (count + elsewhere.count > MAX_USER_COUNT) refuse(`at most ${MAX_USER_COUNT} secrets of a user and its agents together`);
  if (bytes + otherBytes > MAX_USER_BYTES) refuse(`at most ${MAX_USER_BYTES} bytes of a user and its agents together`);
}

function refuse(message: string): never {
  throw new AppError('limit_exceeded', message);
}

function sum(numbers: number[]): number {
  return numbers.reduce((total, one) => total + one, 0);
}
