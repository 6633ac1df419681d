import { type Kysely, sql } from 'kysely';

/**
 * A second live instance of a deployment, which takes its agents over one after the other. At most one of each role lives, so that whoever comes
 * second gets a unique violation.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db);
}

const STATEMENTS = [
  `alter table instances add column role text not null default 'current' check (role in ('current', 'incoming'))`,
  `alter table instances add column handing_at timestamptz`,
  `alter table instances add column handed_at timestamptz`,
  `drop index instances_one_live`,
  `create unique index instances_one_live on instances (deployment_id, role) where ended_at is null`,
  `alter table agents add column served_by text`,
  `alter table deployments add column roll_attempts integer not null default 0`,
  `alter table deployments add column roll_after timestamptz`,
  `alter table deployments add column roll_failed text`,
];
