import { type Kysely, sql } from 'kysely';

/** Agents that are stopped, deployments that sleep, and agents on their way to a container of their own. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db);
}

const STATEMENTS = [
  `alter table agents
    add column desired text not null default 'running' check (desired in ('running', 'stopped')),
    add column moving_from text references deployments (id),
    add column moving_until timestamptz`,
  `create index agents_moving on agents (moving_from) where moving_from is not null`,
  `alter table deployments drop constraint deployments_desired_check`,
  `alter table deployments add constraint deployments_desired_check check (desired in ('running', 'asleep', 'deleted'))`,
  `alter table deployments drop constraint deployments_state_check`,
  `alter table deployments add constraint deployments_state_check
    check (state in ('pending', 'deploying', 'ready', 'asleep', 'failing', 'deleting'))`,
  // Until then a sleeping deployment is up for its files alone: no turn may run.
  `alter table deployments add column files_until timestamptz`,
  `drop index deployments_one_shared`,
  `create unique index deployments_one_shared on deployments (user_id) where kind = 'shared' and desired <> 'deleted'`,
];
