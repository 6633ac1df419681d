import { type Kysely, sql } from 'kysely';

/** Whose heartbeat is to be decided is told by the agent's own row, so that deciding costs what changed and not what exists. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db);
}

const STATEMENTS = [
  // beat_wish goes up with each change that may matter; beat_planned is the one that was decided by. All are decided once anew.
  `alter table agents add column beat_wish bigint not null default 1, add column beat_planned bigint not null default 0`,
  `create index agents_unplanned on agents (id) where beat_wish <> beat_planned`,
  `alter table heartbeats drop column planned`,
];
