import { type Kysely, sql } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { UsageStatus } from './usage.table.js';

type Db = Kysely<Schema>;

/** The calendar month by the database's clock, UTC. */
const THIS_MONTH = sql<string>`to_char(now() at time zone 'utc', 'YYYY-MM')`;
const MONTH_BEGAN = sql<Date>`date_trunc('month', now() at time zone 'utc') at time zone 'utc'`;

/** Opens a row if the user's month has tokens left; answers whether it did. One statement: every model call waits for it. */
export async function insertUsageWithinBudget(db: Db, userId: string, row: NewUsage): Promise<boolean> {
  const columns = Object.keys(row) as (keyof NewUsage)[];
  const inserted = await db
    .insertInto('usage')
    .columns(['user_id', ...columns])
    .expression(
      budgetOf(db, userId)
        .select((eb) => ['u.id', ...columns.map((column) => eb.val(row[column]).as(column))])
        .where((eb) =>
          eb.or([eb('t.tokens_per_month', 'is', null), eb('t.tokens_per_month', '>', sql<string>`coalesce(m.tokens, 0)`)]),
        ),
    )
    .executeTakeFirst();
  return inserted.numInsertedOrUpdatedRows === 1n;
}

/** The tier's tokens a month and how many this month has had; undefined when there is no such user. */
export async function readBudget(db: Db, userId: string) {
  return budgetOf(db, userId)
    .select(['t.name as tier', 't.tokens_per_month', 'm.tokens', sql<string>`${THIS_MONTH}`.as('month')])
    .executeTakeFirst();
}

function budgetOf(db: Db, userId: string) {
  return db
    .selectFrom('users as u')
    .innerJoin('tiers as t', 't.name', 'u.tier')
    .leftJoin('usage_months as m', (join) => join.onRef('m.user_id', '=', 'u.id').on('m.month', '=', THIS_MONTH))
    .where('u.id', '=', userId)
    .where('u.deleting_at', 'is', null);
}

/** What is known of a call before it is made. */
export interface NewUsage {
  id: string;
  deployment_id: string;
  instance_id: string;
  agent_id: string | null;
  agent: string | null;
  turn_id: string | null;
  process_id: string;
  model: string;
  provider: string;
  attempt: number;
}

export interface Settlement {
  status: Exclude<UsageStatus, 'open'>;
  promptTokens: number;
  completionTokens: number;
  counted: boolean;
  error: string | null;
}

/** The month that a call was added to. */
export interface MonthAfter {
  user_id: string;
  month: string;
  /** Of the month, with this call. */
  tokens: string | number;
  /** Of the user's tier; null where it has no limit. */
  limit_tokens: string | number | null;
}

/**
 * Settles an open row and adds its tokens to the month it began in, which it answers; a row settled already is left as it is, and nothing
 * answered.
 */
export async function settleUsageAcrossTenants(db: Db, id: string, settlement: Settlement): Promise<MonthAfter | undefined> {
  const tokens = settlement.promptTokens + settlement.completionTokens;
  return db
    .with('settled', (qb) =>
      qb
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
        .returning(['user_id', sql<string>`to_char(started_at at time zone 'utc', 'YYYY-MM')`.as('month')]),
    )
    .insertInto('usage_months')
    .columns(['user_id', 'month', 'tokens'])
    .expression((eb) => eb.selectFrom('settled').select(['user_id', 'month', sql<string>`${tokens}::bigint`.as('tokens')]))
    .onConflict((oc) =>
      oc.columns(['user_id', 'month']).doUpdateSet({ tokens: sql<string>`usage_months.tokens + excluded.tokens` }),
    )
    .returning((eb) => [
      'user_id',
      'month',
      'tokens',
      eb
        .selectFrom('users as u')
        .innerJoin('tiers as t', 't.name', 'u.tier')
        .select('t.tokens_per_month')
        .whereRef('u.id', '=', 'usage_months.user_id')
        .as('limit_tokens'),
    ])
    .executeTakeFirst();
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
