import { type Kysely, type RawBuilder, type Selectable, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { PageRequest } from '../../lib/page.js';
import type { DeploymentRevisionsTable } from './deployments.table.js';

type Db = Kysely<Schema>;
export type RevisionRow = Selectable<DeploymentRevisionsTable>;

/** Who changed what a deployment runs. */
export interface By {
  actor: string;
  requestId: string | null;
  reason?: string | null;
}

/** Revisions of one deployment that are kept; the oldest go. */
const KEPT = 500;
const NEWEST = 2_147_483_647;

const atMost = (name: 'memory_mib' | 'cpu_millis' | 'pids') => sql<number>`least((d.limits->>${name})::int, t.${sql.ref(name)})`;

/** What a deployment `d` of the user `u` in the tier `t` is to run now: a `RevisionDocument`. */
const DOCUMENT = (usualImage: string) => sql`jsonb_build_object(
  'kind', d.kind,
  'image', coalesce(d.image, d.rolled_image, ${usualImage}::text),
  'image_from', case when d.image is not null then 'config' when d.rolled_image is not null then 'rollout' else 'installation' end,
  'network', d.network,
  'limits', jsonb_build_object('memory_mib', ${atMost('memory_mib')}, 'cpu_millis', ${atMost('cpu_millis')}, 'pids', ${atMost('pids')}),
  'limits_set', d.limits,
  'tier', u.tier,
  'agents', coalesce(
    (select jsonb_agg(jsonb_build_object('id', a.id, 'name', a.name, 'model', a.model, 'config_version',
        coalesce((select max(c.version) from agent_configs c where c.agent_id = a.id), 0)) order by a.id)
      from agents a where a.deployment_id = d.id), '[]'))`;

/** Deployments that are to stay, with what they run now (`present`) and their newest revision (`last`), if there is one. */
const DEPLOYMENTS = (usualImage: string) => sql`
  deployments d join users u on u.id = d.user_id join tiers t on t.name = u.tier
  left join lateral (select r.number, r.document from deployment_revisions r
    where r.deployment_id = d.id order by r.number desc limit 1) last on true
  cross join lateral (select ${DOCUMENT(usualImage)} as document) present
  where d.desired <> 'deleted'`;

const HAS_CHANGED = sql`present.document is distinct from last.document`;

/**
 * Writes a revision of each of these deployments that is to run something else than its newest one says. Call it in the transaction of the change,
 * after it: that holds the deployment's row, so that numbers follow one another.
 */
export async function record(db: Db, userId: string, wanted: readonly Wanted[], by: By, usualImage: string): Promise<void> {
  await write(db, sql`d.user_id = ${userId}`, wanted, by, usualImage);
}

export async function recordAcrossTenants(db: Db, wanted: readonly Wanted[], by: By, usualImage: string): Promise<void> {
  await write(db, sql`true`, wanted, by, usualImage);
}

/** A deployment, and the id of the revision that may be written of it. */
interface Wanted {
  id: string;
  deploymentId: string;
}

async function write(
  db: Db,
  whose: RawBuilder<unknown>,
  wanted: readonly Wanted[],
  { actor, requestId, reason = null }: By,
  usualImage: string,
): Promise<void> {
  if (wanted.length === 0) return;
  const ids = wanted.map(({ id }) => id);
  const deploymentIds = wanted.map(({ deploymentId }) => deploymentId);
  await sql`
    with written as (
      insert into deployment_revisions (id, user_id, deployment_id, number, document, actor, request_id, reason, created_at)
      select wanted.id, d.user_id, d.id, coalesce(last.number, 0) + 1, present.document,
        ${actor}, ${requestId}, ${reason}, clock_timestamp()
      from unnest(${ids}::text[], ${deploymentIds}::text[]) as wanted (id, deployment_id), ${DEPLOYMENTS(usualImage)}
        and d.id = wanted.deployment_id and ${whose} and ${HAS_CHANGED}
      returning deployment_id, number
    )
    delete from deployment_revisions old using written
    where old.deployment_id = written.deployment_id and old.number <= written.number - ${KEPT}`.execute(db);
}

/** Deployments whose newest revision is not what they run, by id from there on: those of before there were revisions, and of another usual image. */
export async function unrecordedAcrossTenants(db: Db, after: string, limit: number, usualImage: string): Promise<string[]> {
  const { rows } = await sql<{ id: string }>`
    select d.id from ${DEPLOYMENTS(usualImage)} and ${HAS_CHANGED} and d.id > ${after} order by d.id limit ${limit}`.execute(db);
  return rows.map((row) => row.id);
}

/** A deployment as it is to be now. */
export interface PresentRow {
  id: string;
  revision: number;
  document: RevisionRow['document'];
  created_at: Date;
}

/** The user's deployments that are to stay: one of them, or a page. */
export async function readPresent(
  db: Db,
  userId: string,
  which: { id: string } | PageRequest,
  usualImage: string,
): Promise<PresentRow[]> {
  const some =
    'id' in which
      ? sql`and d.id = ${which.id}`
      : sql`and d.id > ${which.after ?? ''} order by d.id limit ${which.limit + 1} offset ${which.offset}`;
  const { rows } = await sql<PresentRow>`
    select d.id, coalesce(last.number, 0) as revision, present.document, d.created_at
    from ${DEPLOYMENTS(usualImage)} and d.user_id = ${userId} ${some}`.execute(db);
  return rows;
}

/** Instances of the deployment, the newest first; those that ended are kept for a week. */
export async function listInstances(db: Db, userId: string, deploymentId: string, limit: number) {
  return db
    .selectFrom('instances')
    .select(['id', 'generation', 'role', 'image', 'limits', 'created_at', 'started_at', 'ended_at', 'end_reason'])
    .where('user_id', '=', userId)
    .where('deployment_id', '=', deploymentId)
    .orderBy('generation', 'desc')
    .limit(limit)
    .execute();
}

/** Whether the user has that deployment, and it is to stay. */
export async function isThere(db: Db, userId: string, deploymentId: string): Promise<boolean> {
  const row = await db
    .selectFrom('deployments')
    .select('id')
    .where('user_id', '=', userId)
    .where('id', '=', deploymentId)
    .where('desired', '<>', 'deleted')
    .executeTakeFirst();
  return row !== undefined;
}

/** Newest first. */
export async function listRevisions(db: Db, userId: string, deploymentId: string, page: PageRequest): Promise<RevisionRow[]> {
  let query = db
    .selectFrom('deployment_revisions')
    .selectAll()
    .where('user_id', '=', userId)
    .where('deployment_id', '=', deploymentId);
  const { after } = page;
  if (after !== undefined) {
    const last = db.selectFrom('deployment_revisions').select('number').where('user_id', '=', userId).where('id', '=', after);
    query = query.where(({ fn, val, eb }) => eb('number', '<', fn.coalesce(last, val(NEWEST))));
  }
  return query
    .orderBy('number', 'desc')
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
}

export async function countRevisions(db: Db, userId: string, deploymentId: string): Promise<number> {
  const row = await db
    .selectFrom('deployment_revisions')
    .select((eb) => eb.fn.countAll().as('n'))
    .where('user_id', '=', userId)
    .where('deployment_id', '=', deploymentId)
    .executeTakeFirstOrThrow();
  return Number(row.n);
}

/** Those of these numbers that there are, by number. */
export async function readRevisions(
  db: Db,
  userId: string,
  deploymentId: string,
  numbers: readonly number[],
): Promise<Map<number, RevisionRow>> {
  const rows = await db
    .selectFrom('deployment_revisions')
    .selectAll()
    .where('user_id', '=', userId)
    .where('deployment_id', '=', deploymentId)
    .where('number', 'in', [...numbers])
    .execute();
  return new Map(rows.map((row) => [row.number, row]));
}
