import { type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';

type Db = Kysely<Schema>;

/** What is measured of a user, or of one agent of it, over the last so many seconds. */
export interface Span {
  agentId: string | null;
  windowS: number;
}

/** Turns and heartbeats of an agent that are looked at for a sign of it: where all of these failed, what was before is too long ago. */
const LOOKED_AT = 200;

const since = (windowS: number) => sql<Date>`now() - make_interval(secs => ${windowS})`;

/** Tokens of the model calls that began in that time. */
export async function sumTokens(db: Db, userId: string, { agentId, windowS }: Span): Promise<number> {
  let query = db
    .selectFrom('usage')
    .select(sql<string>`coalesce(sum(prompt_tokens + completion_tokens), 0)`.as('tokens'))
    .where('user_id', '=', userId)
    .where('started_at', '>=', since(windowS));
  if (agentId !== null) query = query.where('agent_id', '=', agentId);
  return Number((await query.executeTakeFirstOrThrow()).tokens);
}

/** Turns that began in that time and have finished or failed; those that somebody cancelled count for neither. */
export async function countTurns(db: Db, userId: string, { agentId, windowS }: Span): Promise<{ failed: number; all: number }> {
  let query = db
    .selectFrom('agents as a')
    .innerJoin('turns as t', 't.agent_id', 'a.id')
    .select([sql<string>`count(*) filter (where t.status = 'failed')`.as('failed'), sql<string>`count(*)`.as('all')])
    .where('a.user_id', '=', userId)
    .where('t.created_at', '>=', since(windowS))
    .where('t.status', 'in', ['finished', 'failed']);
  if (agentId !== null) query = query.where('a.id', '=', agentId);
  const row = await query.executeTakeFirstOrThrow();
  return { failed: Number(row.failed), all: Number(row.all) };
}

/** Instances that ended in that time though nobody wished it. */
export async function countDeaths(db: Db, userId: string, { agentId, windowS }: Span): Promise<number> {
  let query = db
    .selectFrom('deployments as d')
    .innerJoin('instances as i', 'i.deployment_id', 'd.id')
    .select(sql<string>`count(*)`.as('deaths'))
    .where('d.user_id', '=', userId)
    .where('i.ended_at', '>=', since(windowS))
    .where(
      sql<boolean>`coalesce(i.end_reason, '') not in ('asleep', 'deleted') and coalesce(i.end_reason, '') not like 'replaced%'`,
    );
  if (agentId !== null) {
    query = query.where('d.id', 'in', (eb) => eb.selectFrom('agents').select('deployment_id').where('id', '=', agentId));
  }
  return Number((await query.executeTakeFirstOrThrow()).deaths);
}

/**
 * Seconds since a turn of the agent finished, or a heartbeat of it, or since the rule or the agent began where that is less. Undefined for an
 * agent that is gone or was stopped: nothing is to be heard of it.
 */
export async function secondsSilent(db: Db, userId: string, agentId: string, from: Date): Promise<number | undefined> {
  const row = await db
    .selectFrom('agents as a')
    .select(
      sql<number>`extract(epoch from now() - greatest(a.created_at, ${from}::timestamptz,
        (select max(ended_at) from (select * from turns t where t.agent_id = a.id order by t.created_at desc limit ${LOOKED_AT}) last
          where status = 'finished'),
        (select max(ended_at) from (select * from heartbeat_runs r where r.agent_id = a.id order by r.id desc limit ${LOOKED_AT}) last
          where status in ('quiet', 'replied'))
      ))::float8`.as('seconds'),
    )
    .where('a.user_id', '=', userId)
    .where('a.id', '=', agentId)
    .where('a.desired', '=', 'running')
    .executeTakeFirst();
  return row?.seconds;
}
