import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';

/** The agents of a deployment, with what their own rows say. */
export async function agentsAcrossTenants(db: Kysely<Schema>, deploymentId: string) {
  return db
    .selectFrom('agents')
    .select(['id', 'user_id', 'name', 'model', 'instructions'])
    .where('deployment_id', '=', deploymentId)
    .orderBy('name')
    .execute();
}
