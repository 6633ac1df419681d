import { type Kysely, sql } from 'kysely';

/** Up to which transaction events were forgotten with age: whoever reads those of all users from a place before it has missed some. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`create table event_horizon (
    only_one boolean primary key default true check (only_one),
    xid xid8 not null
  )`.execute(db);
}
