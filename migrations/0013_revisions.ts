import { type Kysely, sql } from 'kysely';

/** What a deployment was to run, each time that this changed; and how often it was to be made anew. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db);
}

const STATEMENTS = [
  `create table deployment_revisions (
    id text not null unique,
    user_id text not null references users (id),
    deployment_id text not null references deployments (id) on delete cascade,
    number integer not null,
    document jsonb not null,
    actor text not null,
    request_id text,
    reason text,
    created_at timestamptz not null default now(),
    primary key (deployment_id, number)
  )`,
  `alter table deployments add column restarts integer not null default 0`,
  `create index deployment_revisions_by_user on deployment_revisions (user_id)`,
  // Nothing in Berth does it; this is for whoever would.
  `create function refuse_change() returns trigger language plpgsql as $$
    begin raise exception 'a revision is never changed'; end $$`,
  `create trigger deployment_revisions_immutable before update on deployment_revisions
    for each row execute function refuse_change()`,
];
