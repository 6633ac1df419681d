import { type Kysely, sql } from 'kysely';

/** What sleeps because nobody uses it: paused first, with its memory kept, later stopped. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db);
}

const STATEMENTS = [
  // idle_at: when the next stage of rest begins unless it is used before; null where none does.
  `alter table deployments
    add column rest text check (rest in ('paused', 'stopped')),
    add column idle_at timestamptz`,
  `create index deployments_idle on deployments (idle_at) where idle_at is not null`,
  // Set before the container is stopped on purpose, so that its end is not taken for a failure.
  `alter table instances add column stopped_at timestamptz`,
];
