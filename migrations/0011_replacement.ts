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
  `alter table deployments add column rolled_image text`,
  `alter table instances add column image text`,
  `create table rollouts (
    id text primary key,
    image text not null,
    canary real not null,
    pause_s integer not null,
    wave_timeout_s integer not null,
    least_health real not null,
    state text not null default 'running' check (state in ('running', 'paused', 'done', 'halted', 'undone')),
    reason text,
    wave integer not null default -1,
    health real not null default 1,
    wave_at timestamptz,
    ready_at timestamptz,
    created_at timestamptz not null default now(),
    ended_at timestamptz
  )`,
  // Two that pull at the same deployments would have no end.
  `create unique index rollouts_one_active on rollouts ((true)) where state in ('running', 'paused')`,
  `create table rollout_members (
    rollout_id text not null references rollouts (id),
    deployment_id text not null,
    wave integer not null,
    state text not null default 'waiting' check (state in ('waiting', 'rolling', 'ready', 'failed', 'gone', 'undone')),
    previous text,
    primary key (rollout_id, deployment_id)
  )`,
];
