import { type Kysely, sql } from 'kysely';

/** What holds a deployment to its disk, who waits for room on the host and in which order, and what was measured. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db);
}

const STATEMENTS = [
  // disk: chosen when the volume is made. disk_size_mib: what its own file system is to have; disk_pending: and has not yet.
  `alter table deployments
    add column disk text check (disk in ('hard', 'soft')),
    add column disk_size_mib integer,
    add column disk_pending boolean not null default false,
    add column disk_used_mib integer,
    add column disk_full_at timestamptz,
    add column measure_at timestamptz`,
  // What there is has a volume without a bound.
  `update deployments set disk = 'soft' where generation > 0`,
  `create index deployments_to_measure on deployments (measure_at nulls first) where state = 'ready' and rest is null`,
  `alter table instances
    add column oom_kills integer not null default 0,
    add column oom_at timestamptz,
    add column cpu_throttled real`,
  // room_mib: the memory that is set aside for it since room_at. While it waits for that: queued_at, and its place by queue_turn.
  `alter table deployments
    add column room_mib integer,
    add column room_at timestamptz,
    add column queued_at timestamptz,
    add column queue_turn bigint,
    add column queue_mib integer`,
  `update deployments d set room_at = now(), room_mib = coalesce(
      (select t.memory_mib from users u join tiers t on t.name = u.tier where u.id = d.user_id),
      (select memory_mib from tiers where name = 'free'))
    where exists (select from instances i
      where i.deployment_id = d.id and i.ended_at is null and i.started_at is not null and i.stopped_at is null)`,
  `create index deployments_room on deployments (room_at) include (room_mib) where room_mib is not null`,
  `create index deployments_queue on deployments (queue_turn, queued_at, id) where queued_at is not null`,
  `create index deployments_queue_by_user on deployments (user_id, queue_turn) where queued_at is not null`,
];
