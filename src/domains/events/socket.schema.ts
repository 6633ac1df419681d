import { z } from '@hono/zod-openapi';
import { EventType } from './events.schema.js';

const Cursor = z.string().max(200);
const Agent = z.string().min(1).max(100);

const Subscribe = z.object({
  type: z.literal('subscribe'),
  event: EventType,
  agent: Agent.optional(),
  cursor: Cursor.optional(),
});

/** What a client may say on a WebSocket. */
export const ClientMessage = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('auth'),
    key: z.string().min(1).max(512),
    /** The user that an admin key acts for. */
    user: z.string().min(1).max(100).optional(),
  }),
  z.object({ type: z.literal('ping') }),
  Subscribe,
  Subscribe.omit({ cursor: true }).extend({ type: z.literal('unsubscribe') }),
]);
export type ClientMessage = z.infer<typeof ClientMessage>;
