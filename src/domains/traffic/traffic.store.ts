import { type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';

type Db = Kysely<Schema>;

/** Counts that are to be added to those of today. */
export interface Tally {
  user_id: string;
  deployment_id: string;
  host: string;
  port: number;
  connections: number;
  refused: number;
  bytes_up: number;
  bytes_down: number;
}

/**
 * Adds to today's counts, of whoever has the deployment now. Hosts of a deployment that are new today and come after `mostHosts` others are
 * counted together. Users that are gone are left out.
 */
export async function addAcrossTenants(db: Db, tallies: Tally[], mostHosts: number): Promise<void> {
  if (tallies.length === 0) return;
  await sql`
    with come as (
      select u.id as user_id, c.deployment_id, c.host, c.port, c.connections, c.refused, c.bytes_up, c.bytes_down,
        (now() at time zone 'utc')::date as day
      from jsonb_to_recordset(${JSON.stringify(tallies)}::jsonb) as c (
        user_id text, deployment_id text, host text, port integer,
        connections bigint, refused bigint, bytes_up bigint, bytes_down bigint)
      left join deployments d on d.id = c.deployment_id
      join users u on u.id = coalesce(d.user_id, c.user_id)
    ), have as (
      select deployment_id, count(*) as hosts from egress_traffic
      where (deployment_id, day) in (select deployment_id, day from come) group by deployment_id
    ), known as (
      select come.*, known.host is not null as is_known, coalesce(have.hosts, 0) as hosts
      from come
      left join egress_traffic known using (deployment_id, day, host, port)
      left join have using (deployment_id)
    ), placed as (
      select *, is_known or hosts + row_number() over (partition by deployment_id, is_known order by connections desc, host, port) <= ${mostHosts} as is_own
      from known
    )
    insert into egress_traffic as t (user_id, deployment_id, day, host, port, connections, refused, bytes_up, bytes_down)
    select min(user_id), deployment_id, day, case when is_own then host else '*' end, case when is_own then port else 0 end,
      sum(connections), sum(refused), sum(bytes_up), sum(bytes_down)
    from placed group by 2, 3, 4, 5 order by 2, 3, 4, 5
    on conflict (deployment_id, day, host, port) do update set
      connections = t.connections + excluded.connections, refused = t.refused + excluded.refused,
      bytes_up = t.bytes_up + excluded.bytes_up, bytes_down = t.bytes_down + excluded.bytes_down, last_at = now()`.execute(db);
}

export interface TrafficQuery {
  deploymentId: string;
  /** A day: `2030-01-31`. */
  since: string;
}

function trafficOf(db: Db, userId: string, { deploymentId, since }: TrafficQuery) {
  return db
    .selectFrom('egress_traffic')
    .where('user_id', '=', userId)
    .where('deployment_id', '=', deploymentId)
    .where('day', '>=', sql<Date>`${since}::date`);
}

const SUMS = ['connections', 'refused', 'bytes_up', 'bytes_down'] as const;

/** By host and port, in that order, over the days since. */
export async function readByHost(
  db: Db,
  userId: string,
  query: TrafficQuery,
  page: { after: { host: string; port: number } | undefined; offset: number; limit: number },
) {
  let rows = trafficOf(db, userId, query)
    .select(['host', 'port'])
    .select(({ fn }) => SUMS.map((name) => fn.sum<string>(name).as(name)))
    .select(({ fn }) => fn.max('last_at').as('last_at'))
    .groupBy(['host', 'port']);
  const { after } = page;
  if (after) rows = rows.where(sql<boolean>`(host collate "C", port) > (${after.host}, ${after.port})`);
  return rows
    .orderBy(sql`host collate "C"`)
    .orderBy('port')
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
}

export async function readTotals(db: Db, userId: string, query: TrafficQuery) {
  return trafficOf(db, userId, query)
    .select(({ fn }) => SUMS.map((name) => fn.coalesce(fn.sum<string>(name), sql<string>`0`).as(name)))
    .executeTakeFirstOrThrow();
}

/** The policy in force for an agent, and who shares it. */
export async function readNetwork(db: Db, userId: string, agent: string) {
  return db
    .selectFrom('agents as a')
    .innerJoin('deployments as d', 'd.id', 'a.deployment_id')
    .select(['a.id', 'a.name', 'a.deployment_id', 'd.network'])
    .select((eb) =>
      eb
        .selectFrom('agents as s')
        .select(sql<string[]>`coalesce(array_agg(s.name order by s.name), '{}')`.as('names'))
        .whereRef('s.deployment_id', '=', 'a.deployment_id')
        .whereRef('s.id', '<>', 'a.id')
        .as('siblings'),
    )
    .where('a.user_id', '=', userId)
    .where(agent.startsWith('agt_') ? 'a.id' : 'a.name', '=', agent)
    .executeTakeFirst();
}

export async function pruneAcrossTenants(db: Db, days: number): Promise<void> {
  await db
    .deleteFrom('egress_traffic')
    .where('day', '<', sql<Date>`(now() at time zone 'utc')::date - ${days}::integer`)
    .execute();
}

export async function eraseTraffic(db: Db, userId: string): Promise<void> {
  await db.deleteFrom('egress_traffic').where('user_id', '=', userId).execute();
}
