import { AppError } from './errors.js';

/** What a caller asked of a list: rows after `after` (an id), or from `offset`, `limit` at most. */
export interface PageRequest {
  after: string | undefined;
  offset: number;
  limit: number;
}

export interface Page<T> {
  data: T[];
  pagination: {
    next_cursor: string | null;
    has_more: boolean;
    /** null where counting would cost more than the page itself. */
    total: number | null;
  };
}

/** A cursor is the base64url of the last id seen: opaque to clients, and of no use on another list. */
export function encodeCursor(id: string): string {
  return Buffer.from(id).toString('base64url');
}

/** Reads `?cursor=&limit=&offset=` as validated by the edge. */
export function pageRequest(query: {
  cursor?: string | undefined;
  limit?: number | undefined;
  offset?: number | undefined;
}): PageRequest {
  const after = query.cursor === undefined ? undefined : Buffer.from(query.cursor, 'base64url').toString('utf8');
  if (after !== undefined && !/^[a-z]{3}_[0-9a-z]{26}$/.test(after)) {
    throw new AppError('invalid_request', 'invalid cursor', {
      fields: [{ path: 'cursor', message: 'must be the next_cursor of an earlier answer' }],
    });
  }
  return { after, offset: query.offset ?? 0, limit: query.limit ?? 50 };
}

/** Makes the answer from rows fetched with `limit + 1`. */
export function pageOf<Row extends { id: string }, T>(
  rows: Row[],
  request: PageRequest,
  total: number | null,
  answer: (row: Row) => T,
): Page<T> {
  const shown = rows.slice(0, request.limit);
  const last = shown.at(-1);
  const more = rows.length > request.limit && last !== undefined;
  return { data: shown.map(answer), pagination: { next_cursor: more ? encodeCursor(last.id) : null, has_more: more, total } };
}
