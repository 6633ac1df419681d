import { type Insertable, type Kysely, type Selectable, sql, type Updateable } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { PageRequest } from '../../lib/page.js';
import type { NotificationRulesTable } from './notifications.table.js';

type Db = Kysely<Schema>;
export type RuleRow = Selectable<NotificationRulesTable>;
/** With the channels that its notifications go out by. */
export type RuleWithChannels = RuleRow & { channels: string[] };

const NOW = sql<Date>`now()`;
const CHANNELS = sql<string[]>`array(select c.channel_id from notification_rule_channels c
  where c.rule_id = notification_rules.id order by c.channel_id)`;

export async function countRules(db: Db, userId: string): Promise<number> {
  const row = await db
    .selectFrom('notification_rules')
    .select((eb) => eb.fn.countAll().as('n'))
    .where('user_id', '=', userId)
    .executeTakeFirstOrThrow();
  return Number(row.n);
}

/** When a rule is measured first. */
const firstCheck = (kind: RuleRow['kind']) => ({ next_check_at: kind === 'event' ? null : NOW });
/** What is so of a rule that begins anew. */
const anew = (kind: RuleRow['kind']) => ({
  state: 'ok' as const,
  value: null,
  fired_at: null,
  notified_at: null,
  enabled_at: NOW,
  ...firstCheck(kind),
});

export async function insertRule(
  db: Db,
  userId: string,
  row: Omit<Insertable<NotificationRulesTable>, 'user_id' | 'next_check_at'>,
): Promise<void> {
  await db
    .insertInto('notification_rules')
    .values({ ...row, user_id: userId, ...firstCheck(row.kind) })
    .execute();
}

export async function listRules(db: Db, userId: string, page: PageRequest): Promise<RuleWithChannels[]> {
  let query = db.selectFrom('notification_rules').selectAll().select(CHANNELS.as('channels')).where('user_id', '=', userId);
  if (page.after !== undefined) query = query.where('id', '>', page.after);
  return query
    .orderBy('id')
    .offset(page.offset)
    .limit(page.limit + 1)
    .execute();
}

export async function readRule(db: Db, userId: string, id: string): Promise<RuleWithChannels | undefined> {
  return db
    .selectFrom('notification_rules')
    .selectAll()
    .select(CHANNELS.as('channels'))
    .where('user_id', '=', userId)
    .where('id', '=', id)
    .executeTakeFirst();
}

/** Changes it if it is still at `version` (any, if undefined), and makes it a version more; answers whether it did. `begins`: anew, as of that kind. */
export async function updateRule(
  db: Db,
  userId: string,
  id: string,
  { begins, ...change }: Updateable<NotificationRulesTable> & { begins: RuleRow['kind'] | undefined },
  version?: number,
): Promise<boolean> {
  let query = db
    .updateTable('notification_rules')
    .set(begins ? anew(begins) : {})
    .set({ ...change, version: sql<number>`version + 1`, updated_at: sql<Date>`now()` })
    .where('user_id', '=', userId)
    .where('id', '=', id);
  if (version !== undefined) query = query.where('version', '=', version);
  return (await query.executeTakeFirst()).numUpdatedRows === 1n;
}

export async function deleteRule(db: Db, userId: string, id: string): Promise<boolean> {
  const gone = await db.deleteFrom('notification_rules').where('user_id', '=', userId).where('id', '=', id).executeTakeFirst();
  return gone.numDeletedRows === 1n;
}

/** Has it go out by these and no others; they must be the user's. */
export async function setChannels(db: Db, userId: string, ruleId: string, channels: string[]): Promise<void> {
  await db.deleteFrom('notification_rule_channels').where('user_id', '=', userId).where('rule_id', '=', ruleId).execute();
  if (channels.length === 0) return;
  const rows = channels.map((channelId) => ({ rule_id: ruleId, channel_id: channelId, user_id: userId }));
  await db.insertInto('notification_rule_channels').values(rows).execute();
}

/** Those of the channels that are the user's, held against being deleted. */
export async function ownChannels(db: Db, userId: string, channels: string[]): Promise<string[]> {
  if (channels.length === 0) return [];
  const rows = await db
    .selectFrom('notification_channels')
    .select('id')
    .where('user_id', '=', userId)
    .where('id', 'in', channels)
    .forKeyShare()
    .execute();
  return rows.map(({ id }) => id);
}

/** The id of an agent named by id or name. */
export async function findAgent(db: Db, userId: string, agent: string): Promise<string | undefined> {
  const row = await db
    .selectFrom('agents')
    .select('id')
    .where('user_id', '=', userId)
    .where((eb) => eb.or([eb('id', '=', agent), eb('name', '=', agent)]))
    .executeTakeFirst();
  return row?.id;
}

// ---- rules on events ---------------------------------------------------------------------------------------------------------

/** Has a rule on events begin after that one. */
export async function setStart(db: Db, userId: string, ruleId: string, seq: number): Promise<void> {
  await db
    .updateTable('notification_rules')
    .set({ from_seq: seq })
    .where('user_id', '=', userId)
    .where('id', '=', ruleId)
    .where('kind', '=', 'event')
    .execute();
  await db
    .insertInto('notification_readers')
    .values({ user_id: userId, position: seq })
    .onConflict((oc) => oc.column('user_id').doNothing())
    .execute();
}

/**
 * Users of whom there are events that their rules were not held against: of those, or of all. Looked for without taking anything: whoever comes
 * to work on one takes it then.
 */
export async function unreadAcrossTenants(
  db: Db,
  { of, after, atMost }: { of: string[] | undefined; after: string; atMost: number },
): Promise<string[]> {
  const { rows } = await sql<{ user_id: string }>`
    select r.user_id from notification_readers r
    join event_counters c on c.user_id = r.user_id and c.last_seq > r.position
    join users u on u.id = r.user_id and u.deleting_at is null
    where r.user_id > ${after} and ${of === undefined ? sql`true` : sql`r.user_id = any(${of}::text[])`}
      and exists (select 1 from notification_rules n where n.user_id = r.user_id and n.kind = 'event' and n.enabled)
    order by r.user_id limit ${atMost}`.execute(db);
  return rows.map((row) => row.user_id);
}

/** Takes the place up to which a user's events were read, until the end of the transaction; undefined where another has it. */
export async function takeReader(db: Db, userId: string): Promise<number | undefined> {
  const row = await db
    .selectFrom('notification_readers')
    .select('position')
    .where('user_id', '=', userId)
    .forNoKeyUpdate()
    .skipLocked()
    .executeTakeFirst();
  return row && Number(row.position);
}

export async function moveReader(db: Db, userId: string, position: number): Promise<void> {
  await db.updateTable('notification_readers').set({ position }).where('user_id', '=', userId).execute();
}

export async function eventRules(db: Db, userId: string): Promise<RuleRow[]> {
  return db
    .selectFrom('notification_rules')
    .selectAll()
    .where('user_id', '=', userId)
    .where('kind', '=', 'event')
    .where('enabled', '=', true)
    .orderBy('id')
    .execute();
}

// ---- rules on what is measured -----------------------------------------------------------------------------------------------

/** Takes a rule that is to be measured, until the end of the transaction; those that another process has are passed over. */
export async function takeDueRuleAcrossTenants(db: Db): Promise<(RuleRow & { said_s: number }) | undefined> {
  return db
    .selectFrom('notification_rules')
    .selectAll()
    .select(sql<number>`coalesce(extract(epoch from now() - notified_at), 0)::float8`.as('said_s'))
    .where('enabled', '=', true)
    .where('next_check_at', '<=', NOW)
    .where('user_id', 'in', (eb) => eb.selectFrom('users').select('id').where('deleting_at', 'is', null))
    .orderBy('next_check_at')
    .limit(1)
    .forNoKeyUpdate()
    .skipLocked()
    .executeTakeFirst();
}

/** Has a rule that could not be measured wait, so that it holds up no other. */
export async function putOff(db: Db, userId: string, id: string, seconds: number): Promise<void> {
  await db
    .updateTable('notification_rules')
    .set({ next_check_at: sql<Date>`now() + make_interval(secs => ${seconds})` })
    .where('user_id', '=', userId)
    .where('id', '=', id)
    .execute();
}

/** Writes down what was found, and when it is looked at again. */
export async function noteFinding(
  db: Db,
  userId: string,
  id: string,
  { state, value, isSaid, againS }: { state: RuleRow['state']; value: number | null; isSaid: boolean; againS: number },
): Promise<void> {
  await db
    .updateTable('notification_rules')
    .set({
      state,
      value,
      fired_at: state === 'ok' ? null : sql<Date>`coalesce(fired_at, now())`,
      next_check_at: sql<Date>`now() + make_interval(secs => ${againS})`,
      ...(isSaid ? { notified_at: NOW } : {}),
    })
    .where('user_id', '=', userId)
    .where('id', '=', id)
    .execute();
}
