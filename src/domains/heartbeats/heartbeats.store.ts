import { type Kysely, type Selectable, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { PageRequest } from '../../lib/page.js';
import type { BeatStatus, HeartbeatRunsTable } from './heartbeats.table.js';

type Db = Kysely<Schema>;
export type BeatRow = Selectable<HeartbeatRunsTable>;

/**
 * Writes down when the agent is woken. One that is woken as often as before keeps its time, or each change of it would put its beat off; so it
 * does where another process has just woken it.
 */
export async function planBeat(
  db: Db,
  userId: string,
  agentId: string,
  plan: { everyMs: number; nextAt: Date | null },
): Promise<void> {
  await db
    .insertInto('heartbeats')
    .columns(['agent_id', 'user_id', 'every_ms', 'next_at'])
    .expression((eb) =>
      // From the row itself: an agent that is gone by now gets none.
      eb
        .selectFrom('agents')
        .select([
          'id',
          'user_id',
          sql<number>`${plan.everyMs}::bigint`.as('every_ms'),
          sql<Date | null>`${plan.nextAt}::timestamptz`.as('next_at'),
        ])
        .where('user_id', '=', userId)
        .where('id', '=', agentId),
    )
    .onConflict((oc) =>
      oc.column('agent_id').doUpdateSet({
        every_ms: sql`excluded.every_ms`,
        next_at: sql<Date | null>`case when heartbeats.every_ms = excluded.every_ms and heartbeats.next_at is not null and excluded.next_at is not null
          then heartbeats.next_at else excluded.next_at end`,
      }),
    )
    .execute();
}

/**
 * Takes agents that are due, each for one process: rows are locked, and their next time is set as they are taken, whatever becomes of this beat.
 * Turn by turn between tenants: of each at most `perUser` run at a time, and the second of one comes after the first of all others.
 */
export async function claimDueAcrossTenants(db: Db, limit: number, perUser: number) {
  const running = (of: string) =>
    sql`exists (select 1 from heartbeat_runs r where r.agent_id = ${sql.ref(of)} and r.status = 'running')`;
  const { rows } = await sql<{ agent_id: string; user_id: string; conversation_id: string | null; now: Date }>`
    with due as (
      select h.agent_id, row_number() over (partition by h.user_id order by h.next_at)
          + (select count(*) from heartbeat_runs r where r.user_id = h.user_id and r.status = 'running') as place
      from heartbeats h
      where h.next_at <= now() and not ${running('h.agent_id')}
    ), taken as (
      select h.agent_id from heartbeats h join due d on d.agent_id = h.agent_id
      where d.place <= ${perUser} and h.next_at <= now()
      order by d.place, h.next_at
      limit ${limit}
      for update of h skip locked
    )
    update heartbeats h set next_at = now() + h.every_ms * interval '1 millisecond'
    from taken t where h.agent_id = t.agent_id
    returning h.agent_id, h.user_id, h.conversation_id, now() as now`.execute(db);
  return rows;
}

/** Sets when the agent is woken next; null: not at all, until something of it changes. */
export async function setNext(db: Db, userId: string, agentId: string, nextAt: Date | null): Promise<void> {
  await db
    .updateTable('heartbeats')
    .set({ next_at: nextAt })
    .where('user_id', '=', userId)
    .where('agent_id', '=', agentId)
    .execute();
}

export async function readPlan(db: Db, userId: string, agentId: string) {
  return db
    .selectFrom('heartbeats')
    .select(['next_at', 'conversation_id'])
    .where('user_id', '=', userId)
    .where('agent_id', '=', agentId)
    .executeTakeFirst();
}

/** A run that begins now, or one that is over before it began. A second one that begins is a unique violation. */
export async function insertRun(
  db: Db,
  userId: string,
  run: Pick<BeatRow, 'id' | 'agent_id' | 'process_id' | 'origin'> & { status: 'running' | 'skipped'; reason: string | null },
): Promise<BeatRow> {
  return db
    .insertInto('heartbeat_runs')
    .values({
      ...run,
      user_id: userId,
      reply: null,
      turn_id: null,
      prompt_tokens: null,
      completion_tokens: null,
      ended_at: run.status === 'running' ? null : sql<Date>`now()`,
    })
    .returningAll()
    .executeTakeFirstOrThrow();
}

export interface BeatEnd {
  status: Exclude<BeatStatus, 'running'>;
  reason?: string | undefined;
  reply?: string | undefined;
  turnId?: string | undefined;
  conversationId?: string | undefined;
  usage?: { prompt_tokens: number; completion_tokens: number } | undefined;
}

/**
 * Ends a run; answers whether it was still running. What came due meanwhile is not made up, and the time that the agent is woken next is one
 * whole pause from now.
 */
export async function settleRun(db: Db, userId: string, runId: string, end: BeatEnd): Promise<boolean> {
  const run = await db
    .updateTable('heartbeat_runs')
    .set({
      status: end.status,
      reason: end.reason ?? null,
      reply: end.reply?.replaceAll('\0', '\ufffd') ?? null,
      // A turn that did not come to be journaled has an id that names nothing.
      turn_id: sql<string | null>`(select t.id from turns t where t.id = ${end.turnId ?? null})`,
      prompt_tokens: end.usage?.prompt_tokens ?? null,
      completion_tokens: end.usage?.completion_tokens ?? null,
      ended_at: sql<Date>`now()`,
    })
    .where('user_id', '=', userId)
    .where('id', '=', runId)
    .where('status', '=', 'running')
    .returning('agent_id')
    .executeTakeFirst();
  if (!run) return false;
  await db
    .updateTable('heartbeats')
    .set({
      next_at: sql<Date | null>`case when next_at <= now() then now() + every_ms * interval '1 millisecond' else next_at end`,
      conversation_id: sql<
        string | null
      >`coalesce((select c.id from conversations c where c.id = ${end.conversationId ?? null}), conversation_id)`,
    })
    .where('user_id', '=', userId)
    .where('agent_id', '=', run.agent_id)
    .execute();
  return true;
}

/** Runs whose process is dead, so that nobody else will end them. */
export async function lostAcrossTenants(db: Db, limit: number) {
  return db
    .selectFrom('heartbeat_runs as r')
    .select(['r.id', 'r.user_id', 'r.agent_id'])
    .where('r.status', '=', 'running')
    .where(({ not, exists, selectFrom }) =>
      not(
        exists(
          selectFrom('processes as p')
            .select('p.id')
            .whereRef('p.id', '=', 'r.process_id')
            .where('p.heartbeat_at', '>', sql<Date>`now() - interval '60 seconds'`),
        ),
      ),
    )
    .limit(limit)
    .execute();
}

/** Newest first. */
export async function listRuns(db: Db, userId: string, agentId: string, page: PageRequest): Promise<BeatRow[]> {
  let query = db.selectFrom('heartbeat_runs').selectAll().where('user_id', '=', userId).where('agent_id', '=', agentId);
  if (page.after !== undefined) query = query.where('id', '<', page.after);
  return query
    .orderBy('id', 'desc')
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
}

/** What the agent said at its last beats, oldest first. */
export async function lastReplies(
  db: Db,
  userId: string,
  agentId: string,
  limit: number,
): Promise<{ at: Date; reply: string }[]> {
  const rows = await db
    .selectFrom('heartbeat_runs')
    .select(['started_at as at', 'reply'])
    .where('user_id', '=', userId)
    .where('agent_id', '=', agentId)
    .where('status', '=', 'replied')
    .orderBy('id', 'desc')
    .limit(limit)
    .execute();
  return rows.map(({ at, reply }) => ({ at, reply: reply ?? '' })).toReversed();
}

export async function countRunning(db: Db, userId: string): Promise<number> {
  const row = await db
    .selectFrom('heartbeat_runs')
    .select((eb) => eb.fn.countAll().as('n'))
    .where('user_id', '=', userId)
    .where('status', '=', 'running')
    .executeTakeFirstOrThrow();
  return Number(row.n);
}

/** Forgets runs: those in which nothing was done sooner than the others. */
export async function pruneRunsAcrossTenants(db: Db, days: { idle: number; other: number }): Promise<void> {
  await db
    .deleteFrom('heartbeat_runs')
    .where('status', '<>', 'running')
    .where((eb) =>
      eb.or([
        eb('started_at', '<', sql<Date>`now() - make_interval(days => ${days.other})`),
        eb.and([
          eb('status', 'in', ['quiet', 'skipped']),
          eb('started_at', '<', sql<Date>`now() - make_interval(days => ${days.idle})`),
        ]),
      ]),
    )
    .execute();
}

export async function deleteBeats(db: Db, userId: string): Promise<void> {
  await db.deleteFrom('heartbeat_runs').where('user_id', '=', userId).execute();
  await db.deleteFrom('heartbeats').where('user_id', '=', userId).execute();
}
