import { z } from '@hono/zod-openapi';
import { PageQuery } from '../../http/page.js';
import type { StoredEvent } from '../../events/outbox.js';
import { encodeCursor } from '../../lib/page.js';
import type { Gap } from './feed.js';

const TYPES_AT_MOST = 50;

/** A type, or all of a domain, or all. */
export const EventType = z
  .string()
  .max(100)
  .regex(/^(\*|[a-z_]+(\.[a-z_]+)*(\.\*)?)$/, 'must be a type such as agent.created, a domain such as agent.*, or *');

const Types = z
  .string()
  .max(2_000)
  .transform((text) => text.split(',').map((part) => part.trim()))
  .pipe(z.array(EventType).min(1).max(TYPES_AT_MOST));

export const EventsQuery = PageQuery.extend({
  type: Types.optional().openapi({
    type: 'string',
    description: 'Types separated by commas: `agent.created`, or `agent.*` for all that happens to agents.',
    example: 'agent.*,deployment.ready',
  }),
  order: z.enum(['asc', 'desc']).optional().openapi({ description: 'Oldest first unless told.' }),
  stream: z.enum(['true', 'false']).optional().openapi({
    description:
      'Server-sent events instead of a page, as with `Accept: text/event-stream`; what happens from now on, or after the cursor.',
  }),
});

export const UserEventsQuery = EventsQuery.extend({
  agent: z.string().min(1).max(100).optional().openapi({ description: 'Only what is about this agent, by id or name.' }),
});

export const AllEventsQuery = UserEventsQuery.extend({
  user: z.string().min(1).max(100).optional().openapi({
    description:
      'Only what is of this user, by id or name. With it an admin may name the agent by its name, without it by its id.',
  }),
});

export const EventAnswer = z
  .object({
    id: z.string(),
    seq: z.number().int().openapi({ description: 'Counts up by one per user.' }),
    type: z.string().openapi({ example: 'agent.created' }),
    at: z.iso.datetime(),
    actor: z.string().openapi({ description: 'The key that did it, or the part of Berth.' }),
    request_id: z.string().nullable(),
    agent_id: z.string().nullable(),
    data: z.record(z.string(), z.unknown()),
    cursor: z.string().openapi({ description: 'To go on after this event, in a list, a stream or a WebSocket.' }),
  })
  .openapi('Event');
export type EventAnswer = z.infer<typeof EventAnswer>;

/** Said where a cursor is older than what is kept. */
export const GapAnswer = z
  .object({
    missed: z.number().int(),
    from_seq: z.number().int(),
    to_seq: z.number().int(),
    reason: z.enum(['expired', 'unknown']).openapi({
      description: '`expired`: they are older than events are kept. `unknown`: the cursor is ahead of all that happened.',
    }),
    cursor: z.string(),
  })
  .openapi('EventGap');
export type GapAnswer = z.infer<typeof GapAnswer>;

/** An event among those of all users. */
export const OwnedEventAnswer = EventAnswer.extend({ user_id: z.string() }).openapi('OwnedEvent');
export type OwnedEventAnswer = z.infer<typeof OwnedEventAnswer>;

/** The same among those of all users, whose numbers count for each user alone. */
export const AllGapAnswer = z
  .object({ reason: z.enum(['expired', 'unknown']), cursor: z.string() })
  .openapi('AllEventsGap', { description: 'Events after the cursor are not kept any more, or the cursor is ahead of all.' });
export type AllGapAnswer = z.infer<typeof AllGapAnswer>;

export const EventsAnswer = z
  .object({
    data: z.array(EventAnswer),
    pagination: z.object({ next_cursor: z.string().nullable(), has_more: z.boolean(), total: z.null() }),
    gap: GapAnswer.nullable().openapi({ description: 'What lies between the cursor and the first event that is kept.' }),
  })
  .openapi('Events');

export const AllEventsAnswer = z
  .object({
    data: z.array(OwnedEventAnswer),
    pagination: z.object({ next_cursor: z.string().nullable(), has_more: z.boolean(), total: z.null() }),
    gap: AllGapAnswer.nullable(),
  })
  .openapi('AllEvents');
export type AllEventsAnswer = z.infer<typeof AllEventsAnswer>;

export const TicketAnswer = z
  .object({ ticket: z.string(), expires_at: z.iso.datetime() })
  .openapi('SocketTicket', { description: 'Opens one WebSocket, once: `/api/v1/ws?ticket=…`.' });

export function eventAnswer(event: StoredEvent): EventAnswer {
  const { agent_id: agentId } = event.payload;
  return {
    id: event.id,
    seq: event.seq,
    type: event.type,
    at: event.at.toISOString(),
    actor: event.actor,
    request_id: event.requestId,
    agent_id: typeof agentId === 'string' ? agentId : null,
    data: event.payload,
    cursor: cursorOf(event.seq),
  };
}

export function gapAnswer({ from, to, ahead }: Gap): GapAnswer {
  return {
    missed: to - from + 1,
    from_seq: from,
    to_seq: to,
    reason: ahead ? 'unknown' : 'expired',
    cursor: cursorOf(ahead ? from - 1 : to),
  };
}

export function cursorOf(seq: number): string {
  return encodeCursor(`e${seq}`);
}
