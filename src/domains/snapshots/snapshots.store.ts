import { type Insertable, type Kysely, type Selectable, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { PageRequest } from '../../lib/page.js';
import type { SnapshotsTable } from './snapshots.table.js';

type Db = Kysely<Schema>;
export type SnapshotRow = Selectable<SnapshotsTable>;
type NewSnapshot = Omit<
  Insertable<SnapshotsTable>,
  'user_id' | 'settings' | 'contents' | 'reason' | 'held_until' | 'expires_at' | 'taken_at' | 'stream_key'
> & { settings: object };

export async function insertSnapshot(db: Db, userId: string, row: NewSnapshot): Promise<void> {
  await db
    .insertInto('snapshots')
    .values({ ...row, user_id: userId, settings: JSON.stringify(row.settings) as never })
    .execute();
}

export async function findSnapshot(db: Db, userId: string, agentId: string, id: string): Promise<SnapshotRow | undefined> {
  return db
    .selectFrom('snapshots')
    .selectAll()
    .where('user_id', '=', userId)
    .where('agent_id', '=', agentId)
    .where('id', '=', id)
    .executeTakeFirst();
}

export async function readSnapshot(db: Db, userId: string, id: string): Promise<SnapshotRow | undefined> {
  return db.selectFrom('snapshots').selectAll().where('user_id', '=', userId).where('id', '=', id).executeTakeFirst();
}

/** Newest first. */
export async function listSnapshots(db: Db, userId: string, agentId: string, page: PageRequest): Promise<SnapshotRow[]> {
  let query = db.selectFrom('snapshots').selectAll().where('user_id', '=', userId).where('agent_id', '=', agentId);
  if (page.after !== undefined) query = query.where('id', '<', page.after);
  return query
    .orderBy('id', 'desc')
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
}

export async function countSnapshots(db: Db, userId: string, agentId: string): Promise<number> {
  const row = await db
    .selectFrom('snapshots')
    .select((eb) => eb.fn.countAll().as('n'))
    .where('user_id', '=', userId)
    .where('agent_id', '=', agentId)
    .executeTakeFirstOrThrow();
  return Number(row.n);
}

/** Answers whether it was there, and that no restore has need of it. */
export async function deleteSnapshot(db: Db, userId: string, id: string): Promise<boolean> {
  const row = await db
    .deleteFrom('snapshots')
    .where('user_id', '=', userId)
    .where('id', '=', id)
    .where(({ not, exists, selectFrom }) =>
      not(
        exists(
          selectFrom('restores')
            .select('restores.id')
            .where('restores.state', '=', 'pending')
            .where((eb) => eb.or([eb('restores.snapshot_id', '=', id), eb('restores.before_id', '=', id)])),
        ),
      ),
    )
    .returning('id')
    .executeTakeFirst();
  return row !== undefined;
}

/** What a user's snapshots take, and what the user's tier gives on disk. */
export async function readRoom(db: Db, userId: string) {
  const row = await db
    .selectFrom('users as u')
    .innerJoin('tiers as t', 't.name', 'u.tier')
    .select(['t.name as tier', 't.disk_mib', 'u.data_key'])
    .select(sql<string>`(select coalesce(sum(s.bytes), 0) from snapshots s where s.user_id = u.id)`.as('used'))
    .where('u.id', '=', userId)
    .where('u.deleting_at', 'is', null)
    .executeTakeFirst();
  return row && { ...row, used: Number(row.used) };
}

// ---- work ------------------------------------------------------------------------------------------------------------------

/** It is there; answers whether it was still waited for. */
export async function finishSnapshot(
  db: Db,
  userId: string,
  id: string,
  file: { streamKey: Buffer; contents: object; bytes: number; takenAt: Date },
): Promise<boolean> {
  const row = await db
    .updateTable('snapshots')
    .set({
      state: 'ready',
      reason: null,
      held_until: null,
      stream_key: file.streamKey,
      contents: JSON.stringify(file.contents) as never,
      bytes: file.bytes,
      taken_at: file.takenAt,
    })
    .where('user_id', '=', userId)
    .where('id', '=', id)
    .where('state', '=', 'pending')
    .returning('id')
    .executeTakeFirst();
  return row !== undefined;
}

/** One that was that far has failed; answers whether it was. */
export async function failSnapshot(
  db: Db,
  userId: string,
  id: string,
  was: 'pending' | 'ready',
  reason: string,
): Promise<boolean> {
  const row = await db
    .updateTable('snapshots')
    .set({ state: 'failed', reason, held_until: null, bytes: 0 })
    .where('user_id', '=', userId)
    .where('id', '=', id)
    .where('state', '=', was)
    .returning('id')
    .executeTakeFirst();
  return row !== undefined;
}

/** Where an agent's state can be read from: the instance that serves it, once that has been told of it; and whether one is on its way to it. */
export async function placeOf(db: Db, userId: string, agentId: string) {
  return db
    .selectFrom('agents as a')
    .leftJoin('instances as i', (join) =>
      join
        .onRef('i.deployment_id', '=', 'a.deployment_id')
        .on(sql<boolean>`i.ended_at is null and (i.id = a.served_by or (a.served_by is null and i.role = 'current'))`),
    )
    .select(['a.name', 'a.deployment_id', 'a.arriving', 'a.moving_from', 'i.id as instance_id', 'i.applied_version'])
    .select(sql<boolean>`exists (select from restores r where r.agent_id = a.id and r.state = 'pending')`.as('is_awaited'))
    .where('a.user_id', '=', userId)
    .where('a.id', '=', agentId)
    .executeTakeFirst();
}

/** The live instance of a deployment; undefined where there is no such deployment any more. */
export async function instanceOf(db: Db, userId: string, deploymentId: string) {
  return db
    .selectFrom('deployments as d')
    .leftJoin('instances as i', (join) =>
      join.onRef('i.deployment_id', '=', 'd.id').on('i.ended_at', 'is', null).on('i.role', '=', 'current'),
    )
    .select(['d.desired', 'i.id as instance_id', 'i.applied_version'])
    .where('d.user_id', '=', userId)
    .where('d.id', '=', deploymentId)
    .executeTakeFirst();
}

// ---- agents that are gone --------------------------------------------------------------------------------------------------

/** Keeps the journal of an agent that is about to go. */
export async function keepLines(db: Db, userId: string, agentId: string, snapshotId: string): Promise<void> {
  await db
    .insertInto('kept_lines')
    .columns(['snapshot_id', 'user_id', 'position', 'line'])
    .expression((eb) =>
      eb
        .selectFrom('conversations as c')
        .select([
          eb.val(snapshotId).as('snapshot_id'),
          'c.user_id',
          sql<number>`row_number() over (order by c.id) - 1000000000`.as('position'),
          sql<string>`json_build_object('conversation', json_build_object('id', c.id, 'external_user', c.external_user,
            'memory_key', coalesce(c.memory_key, c.id), 'created_at', ${isoOf('c.created_at')}))::text`.as('line'),
        ])
        .where('c.user_id', '=', userId)
        .where('c.agent_id', '=', agentId),
    )
    .execute();
  await db
    .insertInto('kept_lines')
    .columns(['snapshot_id', 'user_id', 'position', 'line'])
    .expression((eb) =>
      eb
        .selectFrom('turns as t')
        .select([
          eb.val(snapshotId).as('snapshot_id'),
          't.user_id',
          sql<number>`row_number() over (order by t.id)`.as('position'),
          sql<string>`json_build_object('turn', json_build_object('id', t.id, 'conversation_id', t.conversation_id, 'status', t.status,
            'messages', t.messages, 'reply', t.reply, 'error', t.error, 'prompt_tokens', t.prompt_tokens,
            'completion_tokens', t.completion_tokens, 'created_at', ${isoOf('t.created_at')},
            'ended_at', ${isoOf('t.ended_at')}))::text`.as('line'),
        ])
        .where('t.user_id', '=', userId)
        .where('t.agent_id', '=', agentId)
        .where('t.status', '<>', 'running'),
    )
    .execute();
}

const isoOf = (column: string) => sql<string>`to_char(${sql.ref(column)} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`;

export async function linesAfter(db: Db, userId: string, snapshotId: string, after: number, limit: number) {
  return db
    .selectFrom('kept_lines')
    .select(['position', 'line'])
    .where('user_id', '=', userId)
    .where('snapshot_id', '=', snapshotId)
    .where('position', '>', after)
    .orderBy('position')
    .limit(limit)
    .execute();
}

export async function dropLines(db: Db, userId: string, snapshotId: string): Promise<void> {
  await db.deleteFrom('kept_lines').where('user_id', '=', userId).where('snapshot_id', '=', snapshotId).execute();
}

/** All snapshots of an agent go so many hours from now; null: they stay. */
export async function setExpiry(db: Db, userId: string, agentId: string, hours: number | null): Promise<void> {
  await db
    .updateTable('snapshots')
    .set({ expires_at: hours === null ? null : sql<Date>`now() + make_interval(hours => ${hours})` })
    .where('user_id', '=', userId)
    .where('agent_id', '=', agentId)
    .execute();
}

/** Last snapshots of agents that are gone, by the agent's id or its name, the latest first. */
export async function listLast(db: Db, userId: string, agent: string | undefined, page: PageRequest): Promise<SnapshotRow[]> {
  let query = db
    .selectFrom('snapshots')
    .selectAll()
    .where('user_id', '=', userId)
    .where('kind', '=', 'last')
    .where('expires_at', '>', sql<Date>`now()`)
    .where(({ not, exists, selectFrom }) =>
      not(exists(selectFrom('agents').select('agents.id').whereRef('agents.id', '=', 'snapshots.agent_id'))),
    );
  query = query.where(({ not, exists, selectFrom }) =>
    not(
      exists(
        selectFrom('snapshots as later')
          .select('later.id')
          .where('later.user_id', '=', userId)
          .where('later.kind', '=', 'last')
          .whereRef('later.agent_id', '=', 'snapshots.agent_id')
          .whereRef('later.id', '>', 'snapshots.id'),
      ),
    ),
  );
  if (agent !== undefined) query = query.where(agent.startsWith('agt_') ? 'agent_id' : 'agent_name', '=', agent);
  if (page.after !== undefined) query = query.where('id', '<', page.after);
  return query
    .orderBy('id', 'desc')
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
}

// ---- what goes -------------------------------------------------------------------------------------------------------------

/** Those whose time is over and that no restore has need of. */
export async function expiredAcrossTenants(db: Db, limit: number) {
  return db
    .selectFrom('snapshots')
    .select(['id', 'user_id'])
    .where('expires_at', '<=', sql<Date>`now()`)
    .where('state', '<>', 'pending')
    .orderBy('expires_at')
    .limit(limit)
    .execute();
}

/** Those that a schedule has made beyond the newest so many, and that are there. */
export async function beyondKept(db: Db, userId: string, agentId: string, keep: number): Promise<string[]> {
  const rows = await db
    .selectFrom('snapshots')
    .select('id')
    .where('user_id', '=', userId)
    .where('agent_id', '=', agentId)
    .where('kind', '=', 'scheduled')
    .where('state', 'in', ['ready', 'failed'])
    .orderBy('id', 'desc')
    .offset(keep)
    .limit(100)
    .execute();
  return rows.map(({ id }) => id);
}

/** Which of these snapshots there are. */
export async function existing(db: Db, userId: string, ids: string[]): Promise<Set<string>> {
  if (ids.length === 0) return new Set();
  const rows = await db.selectFrom('snapshots').select('id').where('user_id', '=', userId).where('id', 'in', ids).execute();
  return new Set(rows.map(({ id }) => id));
}

/** Some that are ready, after that one, so that their files can be looked for. */
export async function readyAcrossTenants(db: Db, after: string, limit: number) {
  return db
    .selectFrom('snapshots')
    .select(['id', 'user_id'])
    .where('state', '=', 'ready')
    .where('id', '>', after)
    .orderBy('id')
    .limit(limit)
    .execute();
}

export async function eraseSnapshots(db: Db, userId: string): Promise<void> {
  await db.deleteFrom('snapshot_schedules').where('user_id', '=', userId).execute();
  await db.deleteFrom('restores').where('user_id', '=', userId).execute();
  await db.deleteFrom('snapshots').where('user_id', '=', userId).execute();
}
