import { AppError } from '../../lib/errors.js';
import type { PageRequest } from '../../lib/page.js';
import type { SecretAnswer } from './secrets.schema.js';
import type { SecretRow } from './secrets.store.js';

/** Of a shorter value the last four characters would say too much. */
const LAST4_FROM_CHARS = 12;

/** The rows that an agent gets: its own, and of the user's those that it has none of that name of. */
export function effective(rows: SecretRow[], agentId: string): SecretRow[] {
  const own = new Set(rows.filter((row) => row.agent_id === agentId).map(({ name }) => name));
  return rows.filter((row) => row.agent_id === agentId || (row.agent_id === null && !own.has(row.name)));
}

/** The rows after what a page's cursor names. They are in the order of their names, so that a cursor stands for the place of one of them. */
export function rowsFrom(rows: SecretRow[], { after, offset }: PageRequest): SecretRow[] {
  if (after === undefined) return rows.slice(offset);
  const at = rows.findIndex(({ id }) => id === after);
  if (at >= 0) return rows.slice(at + 1 + offset);
  throw new AppError('invalid_request', 'invalid cursor', {
    fields: [{ path: 'cursor', message: 'names a secret that is no longer there; begin the list anew' }],
  });
}

/** Secrets as callers may see them. */
export function answersOf(
  rows: SecretRow[],
  about: {
    open: (row: SecretRow) => Buffer | undefined;
    /** The rows that these are from, overridden ones among them. */
    all: SecretRow[];
    agentName: string | null;
  },
): SecretAnswer[] {
  const users = new Set(about.all.filter((row) => row.agent_id === null).map(({ name }) => name));
  return rows.map((row) => {
    const value = about.open(row);
    return {
      id: row.id,
      name: row.name,
      scope: row.agent_id === null ? 'user' : 'agent',
      agent: row.agent_id === null ? null : about.agentName,
      overrides: row.agent_id !== null && users.has(row.name),
      last4: value ? last4Of(value.toString('utf8')) : null,
      readable: value !== undefined,
      version: row.version,
      created_at: row.created_at.toISOString(),
      updated_at: row.updated_at.toISOString(),
      last_used_at: row.last_used_at?.toISOString() ?? null,
      last_used_by: row.last_used_by,
    };
  });
}

function last4Of(value: string): string | null {
  // By code points: half a surrogate pair is no character.
  const characters = Array.from(value);
  return characters.length < LAST4_FROM_CHARS ? null : characters.slice(-4).join('');
}
