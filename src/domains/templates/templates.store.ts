import { type Insertable, type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { PageRequest } from '../../lib/page.js';
import type { TemplateFile } from './files.js';
import type { TemplatesTable } from './templates.table.js';

type Db = Kysely<Schema>;

/** Names one file of an agent, or of the user's defaults where `agentId` is null. */
export interface FileKey {
  agentId: string | null;
  file: TemplateFile;
}

/** The newest version of every file that the user, or one of the given agents (all, if undefined), ever wrote. */
export async function readCurrent(db: Db, userId: string, agentIds: readonly string[] | undefined) {
  let query = db
    .selectFrom('templates')
    .select(['agent_id', 'file', 'version', 'text', 'kept_bytes', 'created_at'])
    .where('user_id', '=', userId)
    .where('is_current', '=', true);
  if (agentIds !== undefined) {
    query = query.where((eb) => eb.or([eb('agent_id', 'is', null), eb('agent_id', '=', eb.fn.any(eb.val([...agentIds])))]));
  }
  return query.execute();
}

/** The user's name with its variables. */
export async function readOwner(db: Db, userId: string) {
  return db
    .selectFrom('users as u')
    .leftJoin('template_variables as v', 'v.user_id', 'u.id')
    .select(['u.id', 'u.name', 'v.variables', 'v.version as variables_version', 'v.updated_at as variables_updated_at'])
    .where('u.id', '=', userId)
    .executeTakeFirst();
}

/** All agents of the user, with what else of them takes room in what a gateway is told. */
export async function readAgents(db: Db, userId: string) {
  return db
    .selectFrom('agents')
    .select(['id', 'name', 'deployment_id'])
    .select(sql<number>`coalesce(octet_length(to_json(instructions)::text), 0)`.as('instruction_bytes'))
    .where('user_id', '=', userId)
    .orderBy('id')
    .execute();
}

/** By name or id. */
export async function findAgent(db: Db, userId: string, agent: string) {
  return db
    .selectFrom('agents')
    .select(['id', 'name'])
    .where('user_id', '=', userId)
    .where(agent.startsWith('agt_') ? 'id' : 'name', '=', agent)
    .executeTakeFirst();
}

/** Adds the next version, which is the newest from then on. */
export async function insertVersion(
  db: Db,
  userId: string,
  { agentId, file }: FileKey,
  row: Pick<Insertable<TemplatesTable>, 'id' | 'version' | 'text' | 'kept_bytes' | 'actor'>,
): Promise<Date> {
  await db
    .updateTable('templates')
    .set({ is_current: false })
    .where('user_id', '=', userId)
    .where('agent_id', agentId === null ? 'is' : '=', agentId)
    .where('file', '=', file)
    .where('is_current', '=', true)
    .execute();
  const { created_at } = await db
    .insertInto('templates')
    .values({ ...row, user_id: userId, agent_id: agentId, file })
    .returning('created_at')
    .executeTakeFirstOrThrow();
  return created_at;
}

function versionsOf(db: Db, userId: string, { agentId, file }: FileKey) {
  return db
    .selectFrom('templates')
    .where('user_id', '=', userId)
    .where('agent_id', agentId === null ? 'is' : '=', agentId)
    .where('file', '=', file);
}

/** Newest first, without their texts. */
export async function listVersions(db: Db, userId: string, key: FileKey, page: PageRequest) {
  let query = versionsOf(db, userId, key)
    .select(['id', 'version', 'is_current', 'actor', 'created_at'])
    .select(sql<number | null>`octet_length(text)`.as('bytes'));
  const { after } = page;
  if (after !== undefined) {
    query = query.where('version', '<', (eb) => eb.selectFrom('templates as t').select('t.version').where('t.id', '=', after));
  }
  return query
    .orderBy('version', 'desc')
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
}

export async function countVersions(db: Db, userId: string, key: FileKey): Promise<number> {
  const row = await versionsOf(db, userId, key)
    .select((eb) => eb.fn.countAll().as('n'))
    .executeTakeFirstOrThrow();
  return Number(row.n);
}

export async function readVersion(db: Db, userId: string, key: FileKey, version: number) {
  return versionsOf(db, userId, key).selectAll().where('version', '=', version).executeTakeFirst();
}

/** The number of the newest version; 0 where there is none. */
export async function newestVersion(db: Db, userId: string, key: FileKey): Promise<number> {
  const row = await versionsOf(db, userId, key).select('version').where('is_current', '=', true).executeTakeFirst();
  return row?.version ?? 0;
}

/** Removes versions older than `before`, never the newest; answers how many, and counts anew what is kept. */
export async function deleteOldVersions(db: Db, userId: string, key: FileKey, before: number, rowBytes: number): Promise<number> {
  const gone = await db
    .deleteFrom('templates')
    .where('user_id', '=', userId)
    .where('agent_id', key.agentId === null ? 'is' : '=', key.agentId)
    .where('file', '=', key.file)
    .where('version', '<', before)
    .where('is_current', '=', false)
    .returning('id')
    .execute();
  const { bytes } = await versionsOf(db, userId, key)
    .select((eb) => sql<string>`coalesce(sum(coalesce(octet_length(text), 0) + ${eb.val(rowBytes)}), 0)`.as('bytes'))
    .executeTakeFirstOrThrow();
  await db
    .updateTable('templates')
    .set({ kept_bytes: bytes })
    .where('user_id', '=', userId)
    .where('agent_id', key.agentId === null ? 'is' : '=', key.agentId)
    .where('file', '=', key.file)
    .where('is_current', '=', true)
    .execute();
  return gone.length;
}

export async function writeVariables(db: Db, userId: string, variables: Record<string, string>) {
  const row = { user_id: userId, variables: JSON.stringify(variables) as never };
  return db
    .insertInto('template_variables')
    .values(row)
    .onConflict((oc) =>
      oc.column('user_id').doUpdateSet({
        variables: row.variables,
        version: sql<number>`template_variables.version + 1`,
        updated_at: sql<Date>`now()`,
      }),
    )
    .returning(['version', 'updated_at'])
    .executeTakeFirstOrThrow();
}

/** All that the user has; what its agents had is gone with them. */
export async function eraseTemplates(db: Db, userId: string): Promise<void> {
  await db.deleteFrom('templates').where('user_id', '=', userId).execute();
  await db.deleteFrom('template_variables').where('user_id', '=', userId).execute();
}
