import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';

type Db = Kysely<Schema>;

/** The live instances of the user's deployments, or of the one of an agent. */
export async function readSources(db: Db, userId: string, agent: string | undefined) {
  let query = db
    .selectFrom('deployments as d')
    .innerJoin('instances as i', (join) => join.onRef('i.deployment_id', '=', 'd.id').on('i.ended_at', 'is', null))
    .select(['d.id as deployment_id', 'i.name as instance'])
    .where('d.user_id', '=', userId)
    .where('d.desired', '<>', 'deleted');
  if (agent !== undefined) {
    query = query.where('d.id', 'in', (eb) =>
      eb
        .selectFrom('agents')
        .select('deployment_id')
        .where('user_id', '=', userId)
        .where((or) => or.or([or('name', '=', agent), or('id', '=', agent)])),
    );
  }
  return query.orderBy('d.id').execute();
}

/** The name of the agent that a caller names by name or id. */
export async function agentName(db: Db, userId: string, agent: string): Promise<string | undefined> {
  const row = await db
    .selectFrom('agents')
    .select('name')
    .where('user_id', '=', userId)
    .where((eb) => eb.or([eb('name', '=', agent), eb('id', '=', agent)]))
    .executeTakeFirst();
  return row?.name;
}
