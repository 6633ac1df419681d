import { type Insertable, type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { LOOK_AGAIN } from './deployments.store.js';
import type { DeploymentsTable, NetworkPolicy } from './deployments.table.js';

type Db = Kysely<Schema>;

/** How many are nobody's, and how many of those are still on their way. */
export async function countAcrossTenants(db: Db): Promise<{ all: number; onTheWay: number }> {
  const row = await db
    .selectFrom('deployments')
    .select((eb) => [eb.fn.countAll().as('all'), eb.fn.countAll().filterWhere('state', '<>', 'ready').as('on_the_way')])
    .where('kind', '=', 'pool')
    .where('desired', '=', 'running')
    .executeTakeFirstOrThrow();
  return { all: Number(row.all), onTheWay: Number(row.on_the_way) };
}

export async function insertAcrossTenants(
  db: Db,
  row: Omit<Insertable<DeploymentsTable>, 'user_id' | 'kind' | 'network'>,
): Promise<void> {
  await db
    .insertInto('deployments')
    .values({ ...row, user_id: null, kind: 'pool', network: JSON.stringify({ mode: 'none' }) as never, due_at: sql<Date>`now()` })
    .execute();
}

/** Gives the oldest that is ready to a user, with all that is in it; undefined where none is. Two callers never get the same one. */
export async function claim(
  db: Db,
  userId: string,
  values: { kind: 'shared' | 'dedicated'; network: NetworkPolicy },
): Promise<string | undefined> {
  const row = await db
    .updateTable('deployments')
    .set({
      ...LOOK_AGAIN,
      user_id: userId,
      kind: values.kind,
      network: JSON.stringify(values.network) as never,
      state: 'deploying',
      stage: 'configuring',
      stages: '[]',
      attempts: 0,
      created_at: sql<Date>`now()`,
    })
    .where('id', '=', (eb) =>
      eb
        .selectFrom('deployments as d')
        .innerJoin('instances as i', 'i.deployment_id', 'd.id')
        .select('d.id')
        .where('d.kind', '=', 'pool')
        .where('d.desired', '=', 'running')
        .where('d.state', '=', 'ready')
        .where('i.ended_at', 'is', null)
        .where('i.applied_version', '>', 0)
        .orderBy('d.created_at')
        .limit(1)
        .forUpdate(['d'])
        .skipLocked(),
    )
    .returning('id')
    .executeTakeFirst();
  if (!row) return undefined;
  await db.updateTable('instances').set({ user_id: userId }).where('deployment_id', '=', row.id).execute();
  return row.id;
}

/** Lets go of what is too many, the youngest first; answers which. */
export async function retireAcrossTenants(db: Db, count: number): Promise<string[]> {
  const rows = await db
    .updateTable('deployments')
    .set({ ...LOOK_AGAIN, desired: 'deleted', state: 'deleting', stage: 'queued' })
    .where('id', 'in', (eb) =>
      eb
        .selectFrom('deployments')
        .select('id')
        .where('kind', '=', 'pool')
        .where('desired', '=', 'running')
        .orderBy('created_at', 'desc')
        .limit(count)
        .forUpdate()
        .skipLocked(),
    )
    .returning('id')
    .execute();
  return rows.map((row) => row.id);
}
