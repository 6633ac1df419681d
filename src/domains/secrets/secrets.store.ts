import { type Insertable, type Kysely, type Selectable, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { SecretsTable } from './secrets.table.js';

type Db = Kysely<Schema>;

export type SecretRow = Selectable<SecretsTable>;

/** What opens a user's secrets, and the version of them all; undefined when there is no such user. */
export async function readKeys(db: Db, userId: string) {
  return db
    .selectFrom('users as u')
    .leftJoin('secret_stores as s', 's.user_id', 'u.id')
    .select(['u.data_key', 's.version', 's.box_id', 's.box_public', 's.box_private'])
    .where('u.id', '=', userId)
    .executeTakeFirst();
}

export async function versionOf(db: Db, userId: string): Promise<number> {
  const row = await db.selectFrom('secret_stores').select('version').where('user_id', '=', userId).executeTakeFirst();
  return row?.version ?? 0;
}

/** The user's own secrets and those of these agents; of all its agents, if undefined. */
export async function readSecrets(db: Db, userId: string, agentIds?: string[]): Promise<SecretRow[]> {
  let query = db.selectFrom('secrets').selectAll().where('user_id', '=', userId);
  if (agentIds !== undefined) {
    query = query.where((eb) =>
      eb.or([eb('agent_id', 'is', null), ...(agentIds.length > 0 ? [eb('agent_id', 'in', agentIds)] : [])]),
    );
  }
  return query.orderBy('name').execute();
}

export async function readScope(db: Db, userId: string, scope: string): Promise<SecretRow[]> {
  return db.selectFrom('secrets').selectAll().where('user_id', '=', userId).where('scope', '=', scope).execute();
}

/** All that the user has beyond that scope: how many, and their bytes as they are sealed. */
export async function sumElsewhere(db: Db, userId: string, scope: string): Promise<{ count: number; bytes: number }> {
  const row = await db
    .selectFrom('secrets')
    .select((eb) => [eb.fn.countAll().as('count'), sql<string | null>`sum(octet_length(value))`.as('bytes')])
    .where('user_id', '=', userId)
    .where('scope', '<>', scope)
    .executeTakeFirstOrThrow();
  return { count: Number(row.count), bytes: Number(row.bytes ?? 0) };
}

export async function findAgent(db: Db, userId: string, agent: string) {
  return db
    .selectFrom('agents')
    .select(['id', 'name'])
    .where('user_id', '=', userId)
    .where(agent.startsWith('agt_') ? 'id' : 'name', '=', agent)
    .executeTakeFirst();
}

/** Whether the agent is alone in its container, or whoever gave it a secret before has said that sharing is as wished. */
export async function hasPlaceForSecrets(db: Db, userId: string, agentId: string): Promise<boolean> {
  const row = await db
    .selectFrom('agents as a')
    .select('a.id')
    .where('a.user_id', '=', userId)
    .where('a.id', '=', agentId)
    .where((eb) =>
      eb.or([
        eb('a.isolation', '=', 'dedicated'),
        eb.not(
          eb.exists(
            eb
              .selectFrom('agents as b')
              .select('b.id')
              .whereRef('b.deployment_id', '=', 'a.deployment_id')
              .whereRef('b.id', '<>', 'a.id'),
          ),
        ),
        eb.exists(
          eb.selectFrom('secrets as s').select('s.id').whereRef('s.agent_id', '=', 'a.id').where('s.shared_confirmed', '=', true),
        ),
      ]),
    )
    .executeTakeFirst();
  return row !== undefined;
}

/** Adds secrets, or puts the new value and version where the name is there already. */
export async function saveSecrets(
  db: Db,
  userId: string,
  rows: Omit<Insertable<SecretsTable>, 'user_id' | 'created_at' | 'updated_at'>[],
): Promise<void> {
  if (rows.length === 0) return;
  await db
    .insertInto('secrets')
    .values(rows.map((row) => ({ ...row, user_id: userId })))
    .onConflict((oc) =>
      oc.columns(['scope', 'name']).doUpdateSet((eb) => ({
        value: eb.ref('excluded.value'),
        version: eb.ref('excluded.version'),
        shared_confirmed: sql<boolean>`secrets.shared_confirmed or excluded.shared_confirmed`,
        updated_at: sql<Date>`now()`,
      })),
    )
    .execute();
}

export async function deleteSecrets(db: Db, userId: string, scope: string, names: string[]): Promise<void> {
  if (names.length === 0) return;
  await db.deleteFrom('secrets').where('user_id', '=', userId).where('scope', '=', scope).where('name', 'in', names).execute();
}

export async function raiseVersion(db: Db, userId: string): Promise<number> {
  const row = await db
    .insertInto('secret_stores')
    .values({ user_id: userId, version: 1 })
    .onConflict((oc) => oc.column('user_id').doUpdateSet({ version: sql<number>`secret_stores.version + 1` }))
    .returning('version')
    .executeTakeFirstOrThrow();
  return row.version;
}

/** Gives the user a key pair, unless another was first. */
export async function saveBox(
  db: Db,
  userId: string,
  box: { box_id: string; box_public: Buffer; box_private: Buffer },
): Promise<void> {
  await db
    .insertInto('secret_stores')
    .values({ user_id: userId, ...box })
    .onConflict((oc) => oc.column('user_id').doUpdateSet(box).where('secret_stores.box_id', 'is', null))
    .execute();
}

/** Notes for which agent secrets were delivered last: their own, or the one given. At most once a minute, since nobody looks closer. */
export async function noteUse(db: Db, userId: string, secretIds: string[], agentName: string): Promise<void> {
  await db
    .updateTable('secrets')
    .set({
      last_used_at: sql<Date>`now()`,
      last_used_by: (eb) =>
        eb.fn.coalesce(
          eb.selectFrom('agents').select('agents.name').whereRef('agents.id', '=', 'secrets.agent_id'),
          eb.val<string>(agentName),
        ),
    })
    .where('user_id', '=', userId)
    .where('id', 'in', secretIds)
    .where((eb) => eb.or([eb('last_used_at', 'is', null), eb('last_used_at', '<', sql<Date>`now() - interval '1 minute'`)]))
    .execute();
}

export async function eraseSecrets(db: Db, userId: string): Promise<void> {
  await db.deleteFrom('secrets').where('user_id', '=', userId).execute();
  await db.deleteFrom('secret_stores').where('user_id', '=', userId).execute();
}
