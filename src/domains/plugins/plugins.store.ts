import { type Insertable, type Kysely, type Selectable, sql, type Updateable } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { PageRequest } from '../../lib/page.js';
import type { PluginsTable } from './plugins.table.js';

type Db = Kysely<Schema>;
export type PluginRow = Selectable<PluginsTable>;

/** In all of these `userId` null means the installation. */
export async function insertPlugin(db: Db, userId: string | null, row: Omit<Insertable<PluginsTable>, 'user_id'>) {
  return db
    .insertInto('plugins')
    .values({ ...row, user_id: userId })
    .returningAll()
    .executeTakeFirstOrThrow();
}

export async function countPlugins(db: Db, userId: string | null): Promise<number> {
  const row = await db
    .selectFrom('plugins')
    .select((eb) => eb.fn.countAll().as('n'))
    .where('user_id', userId === null ? 'is' : '=', userId)
    .executeTakeFirstOrThrow();
  return Number(row.n);
}

/** What can be assigned: the user's own and the installation's. */
function visibleTo(db: Db, userId: string | null) {
  return db
    .selectFrom('plugins')
    .selectAll()
    .where((eb) =>
      userId === null ? eb('user_id', 'is', null) : eb.or([eb('user_id', '=', userId), eb('user_id', 'is', null)]),
    );
}

export async function listPlugins(db: Db, userId: string | null, page: PageRequest): Promise<PluginRow[]> {
  let query = visibleTo(db, userId);
  if (page.after !== undefined) query = query.where('id', '>', page.after);
  return query
    .orderBy('id')
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
}

/** By id or name; of two with a name the user's own. */
export async function findPlugin(db: Db, userId: string | null, plugin: string): Promise<PluginRow | undefined> {
  return visibleTo(db, userId)
    .where(plugin.startsWith('plg_') ? 'id' : 'name', '=', plugin)
    .orderBy(sql`user_id is null`)
    .limit(1)
    .executeTakeFirst();
}

/** As it is, and so until the end of the transaction. Before the user's row: whoever holds both takes them in this order. */
export async function lockPlugin(db: Db, userId: string | null, pluginId: string): Promise<PluginRow | undefined> {
  return db
    .selectFrom('plugins')
    .selectAll()
    .where('user_id', userId === null ? 'is' : '=', userId)
    .where('id', '=', pluginId)
    .forUpdate()
    .executeTakeFirst();
}

/** Those of the named that there are: none of them is changed or disabled until the end of the transaction. */
export async function holdPlugins(db: Db, userId: string, plugins: string[]): Promise<PluginRow[]> {
  if (plugins.length === 0) return [];
  return visibleTo(db, userId)
    .where((eb) => eb.or([eb('id', 'in', plugins), eb('name', 'in', plugins)]))
    .orderBy(sql`user_id is null`)
    .orderBy('id')
    .forShare()
    .execute();
}

export async function updatePlugin(
  db: Db,
  userId: string | null,
  pluginId: string,
  values: Updateable<PluginsTable>,
): Promise<PluginRow> {
  return db
    .updateTable('plugins')
    .set({ ...values, revision: sql<number>`revision + 1`, updated_at: sql<Date>`now()` })
    .where('user_id', userId === null ? 'is' : '=', userId)
    .where('id', '=', pluginId)
    .returningAll()
    .executeTakeFirstOrThrow();
}

export async function deletePlugin(db: Db, userId: string | null, pluginId: string): Promise<void> {
  await db
    .deleteFrom('plugins')
    .where('user_id', userId === null ? 'is' : '=', userId)
    .where('id', '=', pluginId)
    .execute();
}

/** Users with agents that have the plugin, in the order in which they are to be locked. */
export async function usersWithPluginAcrossTenants(db: Db, pluginId: string): Promise<string[]> {
  const rows = await db
    .selectFrom('agent_plugins')
    .select('user_id')
    .distinct()
    .where('plugin_id', '=', pluginId)
    .orderBy('user_id')
    .execute();
  return rows.map((row) => row.user_id);
}

export async function agentsWithPlugin(db: Db, userId: string, pluginId: string): Promise<string[]> {
  const rows = await db
    .selectFrom('agent_plugins')
    .select('agent_id')
    .where('user_id', '=', userId)
    .where('plugin_id', '=', pluginId)
    .orderBy('agent_id')
    .execute();
  return rows.map((row) => row.agent_id);
}

/** Replaces what the agent has; the order becomes the priority. */
export async function assignPlugins(db: Db, userId: string, agentId: string, pluginIds: string[]): Promise<void> {
  await db.deleteFrom('agent_plugins').where('user_id', '=', userId).where('agent_id', '=', agentId).execute();
  if (pluginIds.length === 0) return;
  const rows = pluginIds.map((plugin_id, priority) => ({ agent_id: agentId, plugin_id, user_id: userId, priority }));
  await db.insertInto('agent_plugins').values(rows).execute();
}

export type AssignedPlugin = Awaited<ReturnType<typeof assignedPlugins>>[number];

/** The plugins of those agents, disabled ones too, each agent's in order of priority. */
export async function assignedPlugins(db: Db, userId: string, agentIds: string[]) {
  if (agentIds.length === 0) return [];
  return db
    .selectFrom('agent_plugins as ap')
    .innerJoin('plugins as p', 'p.id', 'ap.plugin_id')
    .selectAll('p')
    .select(['ap.agent_id', 'ap.priority', 'ap.assigned_at'])
    .where('ap.user_id', '=', userId)
    .where('ap.agent_id', 'in', agentIds)
    .orderBy('ap.agent_id')
    .orderBy('ap.priority')
    .execute();
}

export async function deletePluginsOf(db: Db, userId: string): Promise<void> {
  await db.deleteFrom('agent_plugins').where('user_id', '=', userId).execute();
  await db.deleteFrom('plugins').where('user_id', '=', userId).execute();
}
