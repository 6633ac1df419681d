import { type Insertable, type Kysely, type Selectable, sql, type Updateable } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { PageRequest } from '../../lib/page.js';
import type { SkillPackage } from './package.js';
import type { SkillsTable, SkillVersionsTable } from './skills.table.js';

type Db = Kysely<Schema>;

/** A skill with the version that agents have. */
export type SkillRow = Selectable<SkillsTable> &
  Pick<Selectable<SkillVersionsTable>, 'digest' | 'head' | 'warnings' | 'source'> & { bytes: number };

function skillsOf(db: Db, userId: string) {
  return db
    .selectFrom('skills as s')
    .innerJoin('skill_versions as v', (join) => join.onRef('v.skill_id', '=', 's.id').onRef('v.number', '=', 's.current'))
    .innerJoin('skill_packages as p', (join) => join.onRef('p.user_id', '=', 'v.user_id').onRef('p.digest', '=', 'v.digest'))
    .selectAll('s')
    .select(['v.digest', 'v.head', 'v.warnings', 'v.source', 'p.bytes'])
    .where('s.user_id', '=', userId);
}

/** By name or id. */
export async function findSkill(db: Db, userId: string, skill: string): Promise<SkillRow | undefined> {
  return skillsOf(db, userId)
    .where(skill.startsWith('skl_') ? 's.id' : 's.name', '=', skill)
    .executeTakeFirst();
}

export async function listSkills(db: Db, userId: string, page: PageRequest): Promise<SkillRow[]> {
  let query = skillsOf(db, userId);
  if (page.after !== undefined) query = query.where('s.id', '>', page.after);
  return query
    .orderBy('s.id')
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
}

export async function allSkills(db: Db, userId: string): Promise<SkillRow[]> {
  return skillsOf(db, userId).orderBy('s.name').execute();
}

export async function countSkills(db: Db, userId: string): Promise<number> {
  const row = await db
    .selectFrom('skills')
    .select((eb) => eb.fn.countAll().as('n'))
    .where('user_id', '=', userId)
    .executeTakeFirstOrThrow();
  return Number(row.n);
}

export async function insertSkill(db: Db, userId: string, row: Omit<Insertable<SkillsTable>, 'user_id'>): Promise<void> {
  await db
    .insertInto('skills')
    .values({ ...row, user_id: userId })
    .execute();
}

/** Changes a skill if it is still at `version` (any, if undefined); answers whether it was. */
export async function updateSkill(
  db: Db,
  userId: string,
  skillId: string,
  values: Updateable<SkillsTable>,
  version: number | undefined,
): Promise<boolean> {
  let query = db
    .updateTable('skills')
    .set({ ...values, version: sql<number>`version + 1`, updated_at: sql<Date>`now()` })
    .where('user_id', '=', userId)
    .where('id', '=', skillId);
  if (version !== undefined) query = query.where('version', '=', version);
  return (await query.returning('id').executeTakeFirst()) !== undefined;
}

export async function deleteSkill(db: Db, userId: string, skillId: string): Promise<void> {
  await db.deleteFrom('skills').where('user_id', '=', userId).where('id', '=', skillId).execute();
}

/** Keeps the package once; answers whether it is new. */
export async function keepPackage(db: Db, userId: string, made: SkillPackage): Promise<boolean> {
  const { tar, digest, files } = made;
  const row = await db
    .insertInto('skill_packages')
    .values({ user_id: userId, digest, tar, bytes: tar.length, files: JSON.stringify(files) as never })
    .onConflict((oc) => oc.columns(['user_id', 'digest']).doNothing())
    .returning('digest')
    .executeTakeFirst();
  return row !== undefined;
}

export async function bytesKept(db: Db, userId: string): Promise<number> {
  const row = await db
    .selectFrom('skill_packages')
    .select((eb) => eb.fn.sum('bytes').as('n'))
    .where('user_id', '=', userId)
    .executeTakeFirstOrThrow();
  return Number(row.n ?? 0);
}

export async function readTar(db: Db, userId: string, digest: string): Promise<Buffer | undefined> {
  const row = await db
    .selectFrom('skill_packages')
    .select('tar')
    .where('user_id', '=', userId)
    .where('digest', '=', digest)
    .executeTakeFirst();
  return row && Buffer.from(row.tar);
}

export async function readFiles(db: Db, userId: string, digest: string) {
  const row = await db
    .selectFrom('skill_packages')
    .select('files')
    .where('user_id', '=', userId)
    .where('digest', '=', digest)
    .executeTakeFirstOrThrow();
  return row.files;
}

/** Drops the bytes that no version has any more. */
export async function dropUnused(db: Db, userId: string): Promise<void> {
  await db
    .deleteFrom('skill_packages as p')
    .where('p.user_id', '=', userId)
    .where(({ not, exists, selectFrom }) =>
      not(
        exists(
          selectFrom('skill_versions as v')
            .select('v.number')
            .whereRef('v.user_id', '=', 'p.user_id')
            .whereRef('v.digest', '=', 'p.digest'),
        ),
      ),
    )
    .execute();
}

export async function insertVersion(
  db: Db,
  userId: string,
  row: Omit<Insertable<SkillVersionsTable>, 'user_id' | 'created_at'>,
): Promise<void> {
  const { head, warnings, source, ...rest } = row;
  const json = (value: unknown) => JSON.stringify(value) as never;
  await db
    .insertInto('skill_versions')
    .values({ ...rest, user_id: userId, head: json(head), warnings: json(warnings), source: source ? json(source) : null })
    .execute();
}

export async function findVersion(db: Db, userId: string, skillId: string, number: number) {
  return db
    .selectFrom('skill_versions')
    .selectAll()
    .where('user_id', '=', userId)
    .where('skill_id', '=', skillId)
    .where('number', '=', number)
    .executeTakeFirst();
}

/** All versions, newest first. */
export async function listVersions(db: Db, userId: string, skillId: string) {
  return db
    .selectFrom('skill_versions as v')
    .innerJoin('skill_packages as p', (join) => join.onRef('p.user_id', '=', 'v.user_id').onRef('p.digest', '=', 'v.digest'))
    .selectAll('v')
    .select('p.bytes')
    .where('v.user_id', '=', userId)
    .where('v.skill_id', '=', skillId)
    .orderBy('v.number', 'desc')
    .execute();
}

/** Drops the oldest versions beyond `keep`, never the one in use. */
export async function dropOldVersions(db: Db, userId: string, skillId: string, keep: number): Promise<void> {
  const old = (await listVersions(db, userId, skillId)).slice(keep).map(({ number }) => number);
  if (old.length === 0) return;
  await db
    .deleteFrom('skill_versions')
    .where('user_id', '=', userId)
    .where('skill_id', '=', skillId)
    .where('number', 'in', old)
    .where('number', '<>', (eb) => eb.selectFrom('skills').select('current').where('id', '=', skillId))
    .execute();
}

/** What agents say themselves. */
export async function exceptionsOf(db: Db, userId: string, agentIds: readonly string[]) {
  if (agentIds.length === 0) return [];
  return db
    .selectFrom('agent_skills')
    .select(['agent_id', 'skill_id', 'enabled'])
    .where('user_id', '=', userId)
    .where('agent_id', 'in', agentIds)
    .execute();
}

/** The user's agents with what they say of one skill. */
export async function agentsWithSkill(db: Db, userId: string, skillId: string) {
  return db
    .selectFrom('agents as a')
    .leftJoin('agent_skills as x', (join) => join.onRef('x.agent_id', '=', 'a.id').on('x.skill_id', '=', skillId))
    .select(['a.name', 'x.enabled'])
    .where('a.user_id', '=', userId)
    .orderBy('a.name')
    .execute();
}

export async function replaceExceptions(
  db: Db,
  userId: string,
  agentId: string,
  rows: { skill_id: string; enabled: boolean }[],
): Promise<void> {
  await db.deleteFrom('agent_skills').where('user_id', '=', userId).where('agent_id', '=', agentId).execute();
  if (rows.length === 0) return;
  await db
    .insertInto('agent_skills')
    .values(rows.map((row) => ({ ...row, agent_id: agentId, user_id: userId })))
    .execute();
}

export async function deleteAllSkills(db: Db, userId: string): Promise<void> {
  await db.deleteFrom('skills').where('user_id', '=', userId).execute();
  await db.deleteFrom('skill_packages').where('user_id', '=', userId).execute();
}
