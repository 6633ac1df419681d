import type { Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';

type Trx = Transaction<Schema>;

/** Which agents of a deployment change hands: these, or all that are served by that instance (null: by the current one). */
export type Served = { agentIds: string[] } | { by: string | null };

/** They are served by that instance (null: the current one) as soon as it has been told of `version`; answers how many they are. */
export async function giveAcrossTenants(
  trx: Trx,
  deploymentId: string,
  which: Served,
  to: string | null,
  version: number,
): Promise<number> {
  const changed = await trx
    .updateTable('agents')
    .set({ served_by: to, config_version: version })
    .where(({ or, eb }) => or([eb('deployment_id', '=', deploymentId), eb('moving_from', '=', deploymentId)]))
    .where((eb) => {
      if ('agentIds' in which) return eb('id', 'in', which.agentIds);
      return which.by === null ? eb('served_by', 'is', null) : eb('served_by', '=', which.by);
    })
    .executeTakeFirst();
  return Number(changed.numUpdatedRows);
}

/** The instance is the current one from now on. It knows of those that it serves already. */
export async function settleAcrossTenants(trx: Trx, instanceId: string): Promise<void> {
  await trx.updateTable('agents').set({ served_by: null }).where('served_by', '=', instanceId).execute();
}
