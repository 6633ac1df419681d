import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';

/** The agents whose files are in a deployment, with what their own rows say: also those that are leaving it, not those that are still to come. */
export async function agentsAcrossTenants(db: Kysely<Schema>, deploymentId: string) {
  return db
    .selectFrom('agents')
    .select(['id', 'user_id', 'name', 'model', 'instructions'])
    .where(({ or, and, eb }) =>
      or([and([eb('deployment_id', '=', deploymentId), eb('moving_from', 'is', null)]), eb('moving_from', '=', deploymentId)]),
    )
    .orderBy('name')
    .execute();
}
