import type { Generated, JSONColumnType } from 'kysely';
import type { Condition, RuleKind } from './condition.js';
import type { Quiet } from './quiet.js';

export type ChannelKind = 'webhook' | 'slack' | 'email';
export type Severity = 'info' | 'warning' | 'critical';

/** Where notifications go out, besides the inbox. */
export interface NotificationChannelsTable {
  id: string;
  user_id: string;
  kind: ChannelKind;
  name: string;
  /** A URL or an address, sealed under the user's data key. */
  target: Buffer;
  target_version: Generated<number>;
  /** What of the target may be shown. */
  target_hint: string;
  /** Webhooks are signed with it; sealed. */
  secret: Buffer | null;
  /** When nothing is sent. */
  quiet: JSONColumnType<Quiet | null, string | null, string | null>;
  /** What is critical is sent then too. */
  critical_anytime: Generated<boolean>;
  enabled: Generated<boolean>;
  disabled_reason: string | null;
  /** Since when every attempt has failed. */
  failing_since: Date | null;
  /** null: the address was not confirmed, and nothing is sent there but a code. */
  confirmed_at: Date | null;
  /** The code that was mailed last, sealed; how long it is good for; how often it was guessed at. */
  code: Buffer | null;
  code_until: Date | null;
  code_tries: Generated<number>;
  lease_by: string | null;
  lease_until: Date | null;
  version: Generated<number>;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
}

/** What is worth a notification. */
export interface NotificationRulesTable {
  id: string;
  user_id: string;
  name: string;
  kind: RuleKind;
  severity: Severity;
  enabled: Generated<boolean>;
  /** Only what is about this agent; it may be gone by now. */
  agent_id: string | null;
  condition: JSONColumnType<Condition, string, string>;
  /** What happens again within so long is added to the notification that there is. */
  dedupe_s: number;
  /** Said again where it still fires after so long; null: never. */
  repeat_after_s: number | null;
  notify_resolved: boolean;
  state: Generated<'ok' | 'firing'>;
  /** As it was measured last. */
  value: Generated<number | null>;
  fired_at: Generated<Date | null>;
  /** When it was last said that it fires. */
  notified_at: Generated<Date | null>;
  /** Of a rule on events: it begins after that one. */
  from_seq: Generated<string | number | null>;
  enabled_at: Generated<Date>;
  /** Of a rule on what is measured: when that is done next. */
  next_check_at: Date | null;
  version: Generated<number>;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
}

export interface NotificationRuleChannelsTable {
  rule_id: string;
  channel_id: string;
  user_id: string;
}

/** How far the rules on events of a user have read. */
export interface NotificationReadersTable {
  user_id: string;
  position: string | number;
}

/** The inbox. */
export interface NotificationsTable {
  id: string;
  user_id: string;
  /** null: it is Berth's own. */
  rule_id: string | null;
  /** `firing`, `resolved`: of a rule on what is measured; `notice`: of Berth's own. */
  kind: 'event' | 'firing' | 'resolved' | 'notice';
  severity: Severity;
  title: string;
  text: string;
  agent_id: string | null;
  data: JSONColumnType<Record<string, unknown>, string, string>;
  /** What makes another happening the same one. */
  dedupe_key: string;
  count: Generated<number>;
  read_at: Date | null;
  created_at: Generated<Date>;
  last_at: Generated<Date>;
}

/** A notification on its way out by a channel, or there. */
export interface NotificationDeliveriesTable {
  id: string;
  notification_id: string;
  channel_id: string;
  user_id: string;
  status: Generated<'pending' | 'delivered' | 'failed'>;
  tries: Generated<number>;
  next_at: Date | null;
  /** What the last attempt came to. */
  error: string | null;
  created_at: Generated<Date>;
  ended_at: Date | null;
}

/** A mail that somebody asked for by hand. */
export interface NotificationMailsTable {
  id: string;
  user_id: string;
  purpose: 'code' | 'test';
  address_digest: string;
  sent_at: Generated<Date>;
}
