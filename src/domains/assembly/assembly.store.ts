import { type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';

/** The agents whose files are in a deployment, with what their own rows say: also those that are leaving it, not those that are still to come. */
export async function agentsAcrossTenants(db: Kysely<Schema>, deploymentId: string) {
  return db
    .selectFrom('agents')
    .select(['id', 'user_id', 'name', 'model', 'instructions', sql<string>`coalesce(incarnation, id)`.as('incarnation')])
    .where(({ or, and, eb }) =>
      or([and([eb('deployment_id', '=', deploymentId), eb('moving_from', 'is', null)]), eb('moving_from', '=', deploymentId)]),
    )
    .where(sql<boolean>`arriving is distinct from 'new'`)
    .orderBy('name')
    .execute();
}

/** States on the deployment's volume that are still to be saved though their agents are gone. */
export async function keptAcrossTenants(db: Kysely<Schema>, deploymentId: string): Promise<string[]> {
  const rows = await db
    .selectFrom('snapshots')
    .select('incarnation')
    .where('deployment_id', '=', deploymentId)
    .where('state', '=', 'pending')
    .where('kind', '=', 'last')
    .orderBy('id')
    .execute();
  return rows.flatMap(({ incarnation }) => incarnation ?? []);
}
