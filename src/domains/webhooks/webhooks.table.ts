import type { Generated } from 'kysely';

/** Where events of a user are sent. */
export interface WebhooksTable {
  id: string;
  user_id: string;
  url: string;
  description: string | null;
  /** Types, or all of a domain as `agent.*`, or `*`. */
  events: string[];
  /** Sealed under the user's data key. */
  secret: Buffer;
  secret_version: Generated<number>;
  /** The one before it, still signed with until its time. */
  old_secret: Buffer | null;
  old_secret_version: number | null;
  old_secret_until: Date | null;
  enabled: Generated<boolean>;
  disabled_reason: string | null;
  /** The number of the last event that was looked at. */
  position: string | number;
  /** Since when every attempt has failed. */
  failing_since: Date | null;
  lease_by: string | null;
  lease_until: Date | null;
  version: Generated<number>;
  created_at: Generated<Date>;
  updated_at: Generated<Date>;
}

/** An event on its way to a webhook, or there. */
export interface WebhookDeliveriesTable {
  id: string;
  webhook_id: string;
  user_id: string;
  event_id: string;
  type: string;
  body: string;
  status: Generated<'pending' | 'delivered' | 'failed'>;
  /** What comes later waits for it. */
  in_order: Generated<boolean>;
  /** Attempts since it was made, or replayed. */
  tries: Generated<number>;
  next_at: Date | null;
  created_at: Generated<Date>;
  ended_at: Date | null;
}

export interface WebhookAttemptsTable {
  delivery_id: string;
  n: number;
  at: Generated<Date>;
  ms: number;
  /** HTTP status of the answer; null where none came. */
  status: number | null;
  error: string | null;
  response: string | null;
}
