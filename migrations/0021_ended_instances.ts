import { type Kysely, sql } from 'kysely';

/** Ended instances are forgotten after a while, at every sweep: that must not read those that live. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`create index instances_ended on instances (ended_at) where ended_at is not null`.execute(db);
}
