import { type Kysely, sql } from 'kysely';

/** Deployments that are nobody's yet, kept ready for whoever comes; limits that an instance has now, changed while it runs. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db);
}

const STATEMENTS = [
  `alter table instances add column limits text not null default ''`,
  `alter table deployments alter column user_id drop not null`,
  `alter table instances alter column user_id drop not null`,
  `alter table deployments drop constraint deployments_kind_check`,
  `alter table deployments add constraint deployments_kind_check
    check (kind in ('shared', 'dedicated', 'pool') and (kind = 'pool') = (user_id is null))`,
  `create index deployments_pool on deployments (created_at) where kind = 'pool'`,
];
