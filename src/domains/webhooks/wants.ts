import type { StoredEvent } from '../../events/outbox.js';
import type { WebhookRow } from './webhooks.store.js';

/** Whether an event is to be sent there: one of its types, and none about the webhook itself, which would make ever more of them. */
export function wants(webhook: Pick<WebhookRow, 'id' | 'events'>, event: StoredEvent): boolean {
  if (event.payload['webhook_id'] === webhook.id) return false;
  return webhook.events.some((type) => (type.endsWith('*') ? event.type.startsWith(type.slice(0, -1)) : event.type === type));
}
