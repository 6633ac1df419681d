import { type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';

type Db = Kysely<Schema>;

/** The calendar month and day by the database's clock, UTC. */
const MONTH_BEGAN = sql<Date>`date_trunc('month', now() at time zone 'utc') at time zone 'utc'`;
const DAY_BEGAN = sql<Date>`date_trunc('day', now() at time zone 'utc') at time zone 'utc'`;

/** The live instance that serves the agent: the current one of its deployment, until the agent is handed over. */
const SERVES = sql<boolean>`i.ended_at is null and (i.id = a.served_by or (a.served_by is null and i.role = 'current'))`;

/** What is wished of an agent and how far that is: the agent, its deployment, the instance that the database says lives, its user's limits. */
export async function readStanding(db: Db, userId: string, agent: string) {
  return db
    .selectFrom('agents as a')
    .innerJoin('deployments as d', 'd.id', 'a.deployment_id')
    .innerJoin('users as u', 'u.id', 'a.user_id')
    .innerJoin('tiers as t', 't.name', 'u.tier')
    .leftJoin('instances as i', (join) => join.onRef('i.deployment_id', '=', 'd.id').on(SERVES))
    .leftJoin('usage_months as m', (join) =>
      join.onRef('m.user_id', '=', 'u.id').on('m.month', '=', sql<string>`to_char(now() at time zone 'utc', 'YYYY-MM')`),
    )
    .select(['a.id', 'a.name', 'a.model', 'a.desired', 'a.moving_from', 'a.config_version as wanted_version', 'a.deployment_id'])
    .select(['d.desired as deployment_desired', 'd.kind', 'd.state', 'd.stage', 'd.reason', 'd.rest', 'd.attempts', 'd.limits'])
    .select(['d.due_at', 'd.idle_at', 'd.files_until'])
    .select(['d.disk', 'd.disk_size_mib', 'd.disk_pending', 'd.disk_used_mib', 'd.disk_full_at', 't.disk_mib'])
    .select('d.queued_at')
    .select(
      sql<string | null>`case when d.queued_at is not null then (select count(*) from deployments q
        where q.queued_at is not null and (q.queue_turn, q.queued_at, q.id) <= (d.queue_turn, d.queued_at, d.id)) end`.as(
        'position',
      ),
    )
    .select(['i.oom_kills', 'i.oom_at', 'i.cpu_throttled'])
    .select(['i.id as instance_id', 'i.name as instance_name', 'i.generation', 'i.started_at', 'i.applied_version'])
    .select(['t.name as tier', 't.memory_mib', 't.cpu_millis', 't.tokens_per_month', 'm.tokens'])
    .select(sql<Date>`${MONTH_BEGAN} + interval '1 month'`.as('next_month'))
    .where('a.user_id', '=', userId)
    .where(agent.startsWith('agt_') ? 'a.id' : 'a.name', '=', agent)
    .executeTakeFirst();
}

export type Standing = NonNullable<Awaited<ReturnType<typeof readStanding>>>;

/** Ends of instances that were Berth's doing. */
const WISHED_ENDS = sql<boolean>`end_reason = 'asleep' or end_reason = 'deleted' or end_reason like 'replaced%'`;

/** The last instance that ended otherwise than Berth wished; kept for as long as ended instances are. */
export async function readLastFailure(db: Db, userId: string, deploymentId: string) {
  return db
    .selectFrom('instances')
    .select(['id', 'generation', 'ended_at', 'end_reason'])
    .where('deployment_id', '=', deploymentId)
    .where('user_id', '=', userId)
    .where('ended_at', 'is not', null)
    .where(({ not }) => not(WISHED_ENDS))
    .orderBy('generation', 'desc')
    .limit(1)
    .executeTakeFirst();
}

/** How far back the user's events are looked through: the answer takes the same time whatever they did before. */
const EVENTS_LOOKED_AT = 300;

/** The last events that concern the agent or its deployment, newest first. */
export async function readLastEvents(db: Db, userId: string, of: { agentId: string; deploymentId: string }, limit: number) {
  return db
    .selectFrom((eb) =>
      eb
        .selectFrom('events')
        .select(['seq', 'type', 'at', 'actor', 'payload'])
        .where('user_id', '=', userId)
        .orderBy('seq', 'desc')
        .limit(EVENTS_LOOKED_AT)
        .as('e'),
    )
    .selectAll()
    .where(({ or }) =>
      or([
        sql<boolean>`payload->>'agent_id' = ${of.agentId}`,
        sql<boolean>`payload->>'deployment_id' = ${of.deploymentId} and not payload ? 'agent_id'`,
      ]),
    )
    .orderBy('seq', 'desc')
    .limit(limit)
    .execute();
}

/** The agent's latest turn and how many of its turns run now. */
export async function readTurnsNow(db: Db, userId: string, agentId: string) {
  const turns = db.selectFrom('turns').where('user_id', '=', userId).where('agent_id', '=', agentId);
  const [last, running] = await Promise.all([
    turns.select(['status', 'error', 'created_at', 'ended_at']).orderBy('created_at', 'desc').limit(1).executeTakeFirst(),
    turns
      .select((eb) => eb.fn.countAll().as('n'))
      .where('status', '=', 'running')
      .executeTakeFirstOrThrow(),
  ]);
  return { last, running: Number(running.n) };
}

/** Turns of the agent this month and today, and the tokens of its model calls. */
export async function sumWork(db: Db, userId: string, agentId: string) {
  const [turns, tokens] = await Promise.all([
    db
      .selectFrom('turns')
      .select([
        sql<string>`count(*)`.as('month'),
        sql<string>`count(*) filter (where created_at >= ${DAY_BEGAN})`.as('today'),
        sql<string>`count(*) filter (where status = 'failed')`.as('failed'),
      ])
      .where('user_id', '=', userId)
      .where('agent_id', '=', agentId)
      .where('created_at', '>=', MONTH_BEGAN)
      .executeTakeFirstOrThrow(),
    db
      .selectFrom('usage')
      .select([
        sql<string>`coalesce(sum(prompt_tokens), 0)`.as('prompt'),
        sql<string>`coalesce(sum(completion_tokens), 0)`.as('completion'),
      ])
      .where('user_id', '=', userId)
      .where('started_at', '>=', MONTH_BEGAN)
      .where('agent_id', '=', agentId)
      .executeTakeFirstOrThrow(),
  ]);
  return { turns, tokens };
}

/** How often the deployment got another instance in the last 24 hours; its first one is none. */
export async function countRestarts(db: Db, userId: string, deploymentId: string): Promise<number> {
  const row = await db
    .selectFrom('instances')
    .select((eb) => eb.fn.countAll().as('n'))
    .where('deployment_id', '=', deploymentId)
    .where('user_id', '=', userId)
    .where('generation', '>', 1)
    .where('created_at', '>', sql<Date>`now() - interval '24 hours'`)
    .executeTakeFirstOrThrow();
  return Number(row.n);
}
