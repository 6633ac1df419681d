import type { StoredEvent } from '../../events/outbox.js';

/** The body of a delivery: https://www.standardwebhooks.com's `type`, `timestamp` and `data`, and what else an event has. */
export function bodyOf(event: StoredEvent, userId: string): string {
  return JSON.stringify({
    type: event.type,
    timestamp: event.at.toISOString(),
    data: event.payload,
    id: event.id,
    seq: event.seq,
    user_id: userId,
    actor: event.actor,
    request_id: event.requestId,
  });
}
