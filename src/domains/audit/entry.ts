import { createHash } from 'node:crypto';
import type { Selectable } from 'kysely';
import type { AuditEntriesTable } from './audit.table.js';

/** All of an entry but what links it. */
export type Entry = Omit<Selectable<AuditEntriesTable>, 'digest' | 'mac' | 'seq' | 'hash'>;

/** What the chain is made over. The sealed bytes themselves are not in it, so that they can be destroyed. */
export type Chained = Omit<Entry, 'personal'>;

const ERASED = 'sha256:';
const FORMAT = 'berth audit 1';

export function sha256(bytes: string | Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** What stands in an entry for something personal once it was taken out: its digest, which is also what the chain was made over. */
export function erasedForm(value: string): string {
  return isErased(value) ? value : `${ERASED}${sha256(value)}`;
}

export function isErased(value: string | null): boolean {
  return value?.startsWith(ERASED) ?? false;
}

/** The text whose SHA-256 is an entry's digest: a JSON array without spaces. `scripts/audit/chain.mjs` makes the same. */
export function textOf(entry: Chained): string {
  const kept = (value: string | null) => (value === null ? null : erasedForm(value));
  return JSON.stringify([
    FORMAT,
    entry.id,
    entry.kind,
    entry.act,
    entry.at.toISOString(),
    entry.operation,
    kept(entry.actor),
    kept(entry.user_id),
    kept(entry.resource),
    kept(entry.request_id),
    entry.status,
    entry.code,
    entry.count,
    entry.request_digest,
    entry.before_digest,
    entry.after_digest,
    entry.personal_digest,
  ]);
}

export function digestOf(entry: Chained): string {
  return sha256(textOf(entry));
}

/** What is left of an entry once its user is gone. Whoever acted in an office of their own stays named. */
export function withoutPerson(entry: Entry): Entry {
  const { actor, user_id, resource, request_id } = entry;
  const isPerson = actor.startsWith('user:') || actor.startsWith('agent:');
  return {
    ...entry,
    actor: isPerson ? erasedForm(actor) : actor,
    user_id: user_id && erasedForm(user_id),
    resource: resource && erasedForm(resource),
    request_id: request_id && erasedForm(request_id),
    personal: null,
  };
}
