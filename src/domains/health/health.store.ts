import { type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';

/** Whether the database answers at all. */
export async function askAcrossTenants(db: Kysely<Schema>): Promise<void> {
  await sql`select 1`.execute(db);
}

export interface FiguresRow {
  users: number;
  agents: number;
  deployments: Record<string, number> | null;
  instances: number;
  turns_running: number;
  reconcile_overdue_s: number;
  processes: number;
}

/** How much there is of everything; all of it counted by the database, in one statement. */
export async function countAcrossTenants(db: Kysely<Schema>): Promise<FiguresRow> {
  const { rows } = await sql<FiguresRow>`
    select
      (select count(*)::int from users) as users,
      (select count(*)::int from agents) as agents,
      (select jsonb_object_agg(state, n) from (select state, count(*) as n from deployments group by state) by_state) as deployments,
      (select count(*)::int from instances where ended_at is null) as instances,
      (select count(*)::int from turns where status = 'running') as turns_running,
      (select coalesce(extract(epoch from now() - min(due_at)), 0)::float from deployments
        where due_at < now() and (lease_until is null or lease_until < now())) as reconcile_overdue_s,
      (select count(*)::int from processes where heartbeat_at > now() - interval '15 seconds') as processes`.execute(db);
  return rows[0]!;
}
