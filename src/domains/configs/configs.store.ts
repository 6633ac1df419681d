import type { Kysely, Selectable } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { PageRequest } from '../../lib/page.js';
import type { ConfigDocument } from './configs.schema.js';
import type { AgentConfigsTable } from './configs.table.js';

type Db = Kysely<Schema>;
const MOST_VERSIONS = 2_147_483_647;
export type ConfigRow = Selectable<AgentConfigsTable>;

/** What the user's tier gives a container. */
export async function readTierLimits(db: Db, userId: string) {
  return db
    .selectFrom('users as u')
    .innerJoin('tiers as t', 't.name', 'u.tier')
    .select(['t.memory_mib', 't.cpu_millis', 't.pids'])
    .where('u.id', '=', userId)
    .executeTakeFirst();
}

/** The newest version of an agent's config, if any was ever written. */
export async function readNewest(db: Db, userId: string, agentId: string): Promise<ConfigRow | undefined> {
  return db
    .selectFrom('agent_configs')
    .selectAll()
    .where('user_id', '=', userId)
    .where('agent_id', '=', agentId)
    .orderBy('version', 'desc')
    .limit(1)
    .executeTakeFirst();
}

/** The documents of these agents, by agent id; agents without one are left out. */
export async function readDocuments(db: Db, userId: string, agentIds: readonly string[]): Promise<Map<string, ConfigDocument>> {
  if (agentIds.length === 0) return new Map();
  const rows = await db
    .selectFrom('agent_configs')
    .distinctOn('agent_id')
    .select(['agent_id', 'document'])
    .where('user_id', '=', userId)
    .where('agent_id', 'in', agentIds)
    .orderBy('agent_id')
    .orderBy('version', 'desc')
    .execute();
  return new Map(rows.map((row) => [row.agent_id, row.document]));
}

export async function readVersion(db: Db, userId: string, agentId: string, version: number): Promise<ConfigRow | undefined> {
  return db
    .selectFrom('agent_configs')
    .selectAll()
    .where('user_id', '=', userId)
    .where('agent_id', '=', agentId)
    .where('version', '=', version)
    .executeTakeFirst();
}

/** Newest first. */
export async function listVersions(db: Db, userId: string, agentId: string, page: PageRequest): Promise<ConfigRow[]> {
  let query = db.selectFrom('agent_configs').selectAll().where('user_id', '=', userId).where('agent_id', '=', agentId);
  const { after } = page;
  if (after !== undefined) {
    // Of a version that is not recorded yet nothing is found: all that are come after it.
    const last = db.selectFrom('agent_configs').select('version').where('agent_id', '=', agentId).where('id', '=', after);
    query = query.where(({ fn, val, eb }) => eb('version', '<', fn.coalesce(last, val(MOST_VERSIONS))));
  }
  return query
    .orderBy('version', 'desc')
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
}

export async function countVersions(db: Db, userId: string, agentId: string): Promise<number> {
  const row = await db
    .selectFrom('agent_configs')
    .select((eb) => eb.fn.countAll().as('n'))
    .where('user_id', '=', userId)
    .where('agent_id', '=', agentId)
    .executeTakeFirstOrThrow();
  return Number(row.n);
}

export async function insertVersion(db: Db, userId: string, row: Omit<ConfigRow, 'user_id' | 'created_at'>): Promise<void> {
  const { document, changed, ...rest } = row;
  await db
    .insertInto('agent_configs')
    .values({
      ...rest,
      user_id: userId,
      document: JSON.stringify(document) as never,
      changed: JSON.stringify(changed) as never,
    })
    .execute();
}

/** Forgets versions beyond the newest so many. */
export async function dropOldVersions(db: Db, userId: string, agentId: string, below: number): Promise<void> {
  await db
    .deleteFrom('agent_configs')
    .where('user_id', '=', userId)
    .where('agent_id', '=', agentId)
    .where('version', '<', below)
    .execute();
}
