import type { Kysely } from 'kysely';
import type { Schema } from '../../src/db/schema.js';
import { appendEvent } from '../../src/events/outbox.js';

/** Writes an event as a domain does; answers its number. */
export function happen(db: Kysely<Schema>, userId: string, type: string, payload: Record<string, unknown> = {}): Promise<number> {
  return db.transaction().execute((trx) => appendEvent(trx, userId, { type, actor: 'test', requestId: null, payload }));
}
