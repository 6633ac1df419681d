import { type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';

/** Whether the database answers at all. */
export async function askAcrossTenants(db: Kysely<Schema>): Promise<void> {
  await sql`select 1`.execute(db);
}
