import { type Kysely, sql, type Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { type DeploymentChange, type Lease, leasedUpdateAcrossTenants } from './work.store.js';

type Trx = Transaction<Schema>;

/**
 * The user's row first, as everybody does who changes agents and their deployments: those who lock in another order wait for each other without
 * end. Then the lease; answers the config version, or undefined where the lease no longer holds.
 */
export async function lockLeasedAcrossTenants(
  trx: Trx,
  lease: Lease,
  change: DeploymentChange = {},
): Promise<number | undefined> {
  await trx.selectFrom('users').select('id').where('id', '=', lease.userId).forNoKeyUpdate().execute();
  const held = await leasedUpdateAcrossTenants(trx, lease, change).returning('config_version').executeTakeFirst();
  return held?.config_version;
}

/** Notes when the hand-over to that instance began, unless it has. */
export async function beginHandingAcrossTenants(db: Kysely<Schema>, instanceId: string): Promise<void> {
  await db
    .updateTable('instances')
    .set({ handing_at: sql<Date>`now()` })
    .where('id', '=', instanceId)
    .where('handing_at', 'is', null)
    .execute();
}

export async function raiseVersionAcrossTenants(trx: Trx, lease: Lease): Promise<number> {
  const row = await trx
    .updateTable('deployments')
    .set({ config_version: sql<number>`config_version + 1` })
    .where('id', '=', lease.deploymentId)
    .returning('config_version')
    .executeTakeFirstOrThrow();
  return row.config_version;
}

export async function setInstanceAcrossTenants(
  trx: Trx,
  instanceId: string,
  change: { ended: string } | { role: 'current' } | { handed: true },
): Promise<void> {
  const now = sql<Date>`now()`;
  await trx
    .updateTable('instances')
    .set({
      ...('ended' in change ? { ended_at: now, end_reason: change.ended } : {}),
      ...('role' in change ? { role: change.role } : {}),
      ...('handed' in change ? { handed_at: now } : {}),
    })
    .where('id', '=', instanceId)
    .where('ended_at', 'is', null)
    .execute();
}
