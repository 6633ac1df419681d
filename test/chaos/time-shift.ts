import { type Kysely, sql } from 'kysely';
import type { Schema } from '../../src/db/schema.js';

/** Tables whose rows the database itself lets nobody change. */
const FOR_GOOD = ['audit_entries', 'deployment_revisions'];

/**
 * Lets time pass for the database, or go back, as a clock that is set does: every time that it holds is moved the other way. Those in `dead` are
 * processes that are not heard of meanwhile; others go on saying that they live. A table that somebody holds for long is left out.
 */
export async function shiftTime(db: Kysely<Schema>, seconds: number, dead: readonly string[]): Promise<void> {
  const { rows } = await sql<{ table: string; columns: string[] }>`
    select c.table_name as table, array_agg(c.column_name::text) as columns from information_schema.columns c
    join information_schema.tables t using (table_schema, table_name)
    where c.table_schema = 'public' and c.data_type = 'timestamp with time zone' and t.table_type = 'BASE TABLE'
      and c.table_name <> all(${[...FOR_GOOD]}::text[])
    group by c.table_name`.execute(db);
  for (const { table, columns } of rows) {
    const moved = columns.map((column) => `${column} = ${column} - make_interval(secs => ${seconds})`).join(', ');
    const which = table === 'processes' ? sql`where id = any(${[...dead]}::text[])` : sql``;
    await shiftTable(db, table, moved, which).catch(ignoreHeld);
  }
}

/** What a frozen process holds is not waited for. */
export function ignoreHeld(error: unknown): void {
  const lockNotAvailable = '55P03';
  if ((error as { code?: string }).code !== lockNotAvailable) throw error;
}

/** Alone in the table, since rows locked in another order than Berth's would be a deadlock that is none of its own. */
async function shiftTable(db: Kysely<Schema>, table: string, moved: string, which: ReturnType<typeof sql>): Promise<void> {
  await db.transaction().execute(async (trx) => {
    await sql`set local lock_timeout = '1s'`.execute(trx);
    await sql`lock table ${sql.id(table)} in exclusive mode`.execute(trx);
    await sql`update ${sql.id(table)} set ${sql.raw(moved)} ${which}`.execute(trx);
  });
}
