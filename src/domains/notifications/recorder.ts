import type { Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { appendEvent } from '../../events/outbox.js';
import { newId } from '../../lib/ids.js';
import * as dispatch from './dispatch.store.js';
import * as store from './notifications.store.js';
import type { NotificationsTable, Severity } from './notifications.table.js';

/** Something that is worth a notification. */
export interface Happening {
  /** Whose it is; undefined: Berth's own. */
  rule: { id: string; dedupe_s: number } | undefined;
  kind: NotificationsTable['kind'];
  severity: Severity;
  title: string;
  text: string;
  agentId: string | null;
  data: Record<string, unknown>;
  /** What makes another happening the same one; undefined: it is always one of its own. */
  key: string | undefined;
  /** How often it happened. */
  count: number;
}

/** Notifications that a rule makes within an hour; what else happens is added to the last one. */
const OF_RULE_HOURLY = 60;
/** What goes out by one channel within an hour. */
const BY_CHANNEL_HOURLY = 100;

/**
 * Writes down what happened, as the last statements of the transaction that found it: the inbox, what is to go out, and the events that say so.
 * What is the same as something young is added to that, and goes out no second time.
 */
export async function record(trx: Transaction<Schema>, userId: string, happenings: Happening[]): Promise<void> {
  const made: store.NotificationRow[] = [];
  for (const happening of happenings) {
    const row = await makeOrAdd(trx, userId, happening);
    if (row) made.push(row);
  }
  for (const { id, rule_id: ruleId, kind, severity } of made) {
    // Nothing that would show it to an agent's key: it is the user's.
    const payload = { notification_id: id, rule_id: ruleId, kind, severity };
    await appendEvent(trx, userId, { type: 'notification.created', actor: 'notifications', requestId: null, payload });
  }
}

async function makeOrAdd(
  trx: Transaction<Schema>,
  userId: string,
  { rule, key, ...what }: Happening,
): Promise<store.NotificationRow | undefined> {
  if (rule && key !== undefined) {
    const same = { ruleId: rule.id, key, dedupeS: rule.dedupe_s, hourly: OF_RULE_HOURLY };
    const id = await store.findToAddTo(trx, userId, same);
    if (id !== undefined) {
      await store.addToNotification(trx, userId, id, what.count);
      return undefined;
    }
  }
  const row = await store.insertNotification(trx, userId, {
    id: newId('ntf'),
    rule_id: rule?.id ?? null,
    kind: what.kind,
    severity: what.severity,
    title: what.title,
    text: what.text,
    agent_id: what.agentId,
    data: JSON.stringify(what.data),
    dedupe_key: key ?? '',
    count: what.count,
  });
  if (rule) await sendOut(trx, userId, row.id, rule.id);
  return row;
}

async function sendOut(trx: Transaction<Schema>, userId: string, notificationId: string, ruleId: string): Promise<void> {
  for (const { id: channelId, recent } of await dispatch.channelsOfRule(trx, userId, ruleId)) {
    const isMuch = recent >= BY_CHANNEL_HOURLY;
    await dispatch.insertDelivery(trx, userId, {
      id: newId('ntd'),
      notification_id: notificationId,
      channel_id: channelId,
      error: isMuch ? `the channel has had ${BY_CHANNEL_HOURLY} within an hour` : null,
    });
  }
}
