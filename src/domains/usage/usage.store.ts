import { type Insertable, type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { UsageStatus, UsageTable } from './usage.table.js';

type Db = Kysely<Schema>;

/** The calendar month by the database's clock, UTC. */
const THIS_MONTH = sql<string>`to_char(now() at time zone 'utc', 'YYYY-MM')`;
const MONTH_BEGAN = sql<Date>`date_trunc('month', now() at time zone 'utc') at time zone 'utc'`;

export async function insertUsage(db: Db, userId: string, row: Omit<Insertable<UsageTable>, 'user_id'>): Promise<void> {
  await db.insertInto('usage').values({ ...row, user_id: userId }).execute();
}

/** The tier's tokens a month and how many this month has had; undefined when there is no such user. */
export async function readBudget(db: Db, userId: string) {
  return db
    .selectFrom('users as u')
    .innerJoin('tiers as t', 't.name', 'u.tier')
    .leftJoin('usage_months as m', (join) => join.onRef('m.user_id', '=', 'u.id').on('m.month', '=', THIS_MONTH))
    .select(['t.name as tier', 't.tokens_per_month', 'm.tokens', sql<string>`${THIS_MONTH}`.as('month')])
    .where('u.id', '=', userId)
    .where('u.deleting_at', 'is', null)
    .executeTakeFirst();
}

export interface Settlement {
  status: Exclude<UsageStatus, 'open'>;
  promptTokens: number;
  completionTokens: number;
  counted: boolean;
  error: string | null;
}

/** Settles an open row and adds its tokens to the month it began in; a row settled already is left as it is. */
export async function settleUsageAcrossTenants(db: Db, id: string, settlement: Settlement): Promise<void> {
  await db.transaction().execute(async (trx) => {
    const row = await trx
      .updateTable('usage')
      .set({
        status: settlement.status,
        prompt_tokens: settlement.promptTokens,
        completion_tokens: settlement.completionTokens,
        counted: settlement.counted,
        error: settlement.error,
        ended_at: sql<Date>`now()`,
      })
      .where('id', '=', id)
      .where('status', '=', 'open')
      .returning(['user_id', sql<string>`to_char(started_at at time zone 'utc', 'YYYY-MM')`.as('month')])
      .executeTakeFirst();
    if (!row) return;
    const tokens = settlement.promptTokens + settlement.completionTokens;
    await trx
      .insertInto('usage_months')
      .values({ user_id: row.user_id, month: row.month, tokens })
      .onConflict((oc) => oc.columns(['user_id', 'month']).doUpdateSet({ tokens: sql<string>`usage_months.tokens + ${tokens}` }))
      .execute();
  });
}

/** Open rows whose process is dead: its row is gone, or has had no heartbeat for a minute. */
export async function readAbandonedAcrossTenants(db: Db): Promise<string[]> {
  const rows = await db
    .selectFrom('usage as u')
    .leftJoin('processes as p', 'p.id', 'u.process_id')
    .select('u.id')
    .where('u.status', '=', 'open')
    .where((eb) => eb.or([eb('p.id', 'is', null), eb('p.heartbeat_at', '<', sql<Date>`now() - interval '60 seconds'`)]))
    .limit(500)
    .execute();
  return rows.map((row) => row.id);
}

const SUMS = [
  sql<string>`count(*)`.as('calls'),
  sql<string>`count(*) filter (where status in ('failed', 'cut_off'))`.as('failed'),
  sql<string>`coalesce(sum(prompt_tokens), 0)`.as('prompt_tokens'),
  sql<string>`coalesce(sum(completion_tokens), 0)`.as('completion_tokens'),
  sql<string>`coalesce(sum(prompt_tokens + completion_tokens) filter (where counted), 0)`.as('counted_tokens'),
] as const;

/** This month's sums by agent, model and day, all in one grouping; the caller adds them up as it needs. */
export async function sumMonth(db: Db, userId: string) {
  return db
    .selectFrom('usage')
    .select(['agent', 'agent_id', 'model', sql<string>`to_char(started_at at time zone 'utc', 'YYYY-MM-DD')`.as('day'), ...SUMS])
    .where('user_id', '=', userId)
    .where('started_at', '>=', MONTH_BEGAN)
    .groupBy(['agent', 'agent_id', 'model', sql`to_char(started_at at time zone 'utc', 'YYYY-MM-DD')`])
    .execute();
}

export async function deleteUsage(db: Db, userId: string): Promise<void> {
  await db.deleteFrom('usage').where('user_id', '=', userId).execute();
  await db.deleteFrom('usage_months').where('user_id', '=', userId).execute();
}
