import { type Insertable, type Kysely, type Selectable, sql, type Updateable } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { PageRequest } from '../../lib/page.js';
import type { DeploymentState } from '../deployments/deployments.table.js';
import type { AgentsTable } from './agents.table.js';
import { BEAT_CHANGED } from './beats.store.js';

type Db = Kysely<Schema>;

/** An agent with how its deployment stands. */
export type AgentRow = Selectable<AgentsTable> & { deployment_state: DeploymentState; applied_version: number | null };

/** Whether a live instance is the one that serves the agent: the current one of its deployment, until it is handed over. */
const SERVES = sql<boolean>`i.ended_at is null and (i.id = a.served_by or (a.served_by is null and i.role = 'current'))`;

function agentsOf(db: Db, userId: string) {
  return db
    .selectFrom('agents as a')
    .innerJoin('deployments as d', 'd.id', 'a.deployment_id')
    .leftJoin('instances as i', (join) => join.onRef('i.deployment_id', '=', 'd.id').on(SERVES))
    .selectAll('a')
    .select(['d.state as deployment_state', 'i.applied_version'])
    .where('a.user_id', '=', userId);
}

/** By name or id. */
export async function findAgent(db: Db, userId: string, agent: string): Promise<AgentRow | undefined> {
  return agentsOf(db, userId)
    .where(agent.startsWith('agt_') ? 'a.id' : 'a.name', '=', agent)
    .executeTakeFirst();
}

export async function listAgents(db: Db, userId: string, page: PageRequest): Promise<AgentRow[]> {
  let query = agentsOf(db, userId);
  if (page.after !== undefined) query = query.where('a.id', '>', page.after);
  return query
    .orderBy('a.id')
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
}

export async function countAgents(db: Db, userId: string): Promise<number> {
  const row = await db
    .selectFrom('agents')
    .select((eb) => eb.fn.countAll().as('n'))
    .where('user_id', '=', userId)
    .executeTakeFirstOrThrow();
  return Number(row.n);
}

/**
 * Holds the user's row until the end of the transaction, so that changes to its agents follow one another: first of all locks, or two changes
 * could wait for each other. Not `for update`, which would make every row that refers to the user wait, the reconciler's events among them.
 */
export async function lockUser(db: Db, userId: string) {
  return db
    .selectFrom('users')
    .select(['id', 'name', 'tier'])
    .where('id', '=', userId)
    .where('deleting_at', 'is', null)
    .forNoKeyUpdate()
    .executeTakeFirst();
}

export async function insertAgent(
  db: Db,
  userId: string,
  row: Omit<Insertable<AgentsTable>, 'user_id' | 'moving_from' | 'moving_until'>,
): Promise<void> {
  await db
    .insertInto('agents')
    .values({ ...row, network: JSON.stringify(row.network) as never, user_id: userId })
    .execute();
}

/** Changes an agent if it is still at `version` (any, if undefined); answers whether it was. */
export async function updateAgent(
  db: Db,
  userId: string,
  agentId: string,
  values: Updateable<AgentsTable>,
  version: number | undefined,
): Promise<boolean> {
  let query = db
    .updateTable('agents')
    .set({ ...values, ...BEAT_CHANGED, version: sql<number>`version + 1`, updated_at: sql<Date>`now()` })
    .where('user_id', '=', userId)
    .where('id', '=', agentId);
  if (version !== undefined) query = query.where('version', '=', version);
  return (await query.returning('id').executeTakeFirst()) !== undefined;
}

/** Says which config version of their deployment first holds these agents as they are now: one agent, or all of a deployment. */
export async function awaitVersion(
  db: Db,
  userId: string,
  which: { agentId: string } | { deploymentId: string },
  version: number,
): Promise<void> {
  await db
    .updateTable('agents')
    .set({ ...BEAT_CHANGED, config_version: version })
    .where('user_id', '=', userId)
    .where('agentId' in which ? 'id' : 'deployment_id', '=', 'agentId' in which ? which.agentId : which.deploymentId)
    .execute();
}

/** The deployments in which the user has agents. */
export async function deploymentsInUse(db: Db, userId: string): Promise<string[]> {
  const rows = await db
    .selectFrom('agents')
    .select('deployment_id')
    .distinct()
    .where('user_id', '=', userId)
    .orderBy('deployment_id')
    .execute();
  return rows.map((row) => row.deployment_id);
}

export async function deleteAgent(db: Db, userId: string, agentId: string): Promise<void> {
  await db.deleteFrom('agents').where('user_id', '=', userId).where('id', '=', agentId).execute();
}

export async function deleteAllAgents(db: Db, userId: string): Promise<void> {
  await db.deleteFrom('agents').where('user_id', '=', userId).execute();
}

/** The agents that a deployment's gateway may speak for. */
export async function agentsOfDeployment(db: Db, userId: string, deploymentId: string) {
  return (
    db
      .selectFrom('agents')
      .select(['id', 'name', 'model'])
      .where('user_id', '=', userId)
      // What an agent began before its move it may bring to an end.
      .where(({ or, eb }) => or([eb('deployment_id', '=', deploymentId), eb('moving_from', '=', deploymentId)]))
      .execute()
  );
}

/** All that a chat needs to know of an agent, in one query. */
export async function findRoute(db: Db, userId: string, agent: string) {
  return db
    .selectFrom('agents as a')
    .innerJoin('deployments as d', 'd.id', 'a.deployment_id')
    .leftJoin('instances as i', (join) => join.onRef('i.deployment_id', '=', 'd.id').on(SERVES))
    .select([
      'a.id',
      'a.name',
      'a.config_version',
      'a.deployment_id',
      'a.desired',
      'a.moving_from',
      'a.arriving',
      'd.desired as deployment_desired',
      'd.rest',
      'd.disk',
      'd.disk_full_at',
      'd.state',
      'd.stage',
      'd.reason',
      'i.id as instance_id',
      'i.applied_version',
    ])
    .where('a.user_id', '=', userId)
    .where(agent.startsWith('agt_') ? 'a.id' : 'a.name', '=', agent)
    .executeTakeFirst();
}

/** Names of agents with their users' names, for the admin's model list. */
export async function namesAcrossTenants(db: Db, limit: number) {
  return db
    .selectFrom('agents as a')
    .innerJoin('users as u', 'u.id', 'a.user_id')
    .select(['a.name', 'u.name as user_name', 'a.created_at'])
    .orderBy('a.id')
    .limit(limit)
    .execute();
}
