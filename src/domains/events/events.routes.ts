import { z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { headerOf } from '../../http/authenticate.js';
import { json } from '../../http/page.js';
import type { Env } from '../../http/request-state.js';
import { callerOf, createRouter, route, tenantOf } from '../../http/router.js';
import { streamEvents, type StreamOptions } from '../../http/sse.js';
import { writeEvents } from './event-stream.js';
import { type Events, type EventsWish, seqOf } from './events.js';
import { EventsAnswer, EventsQuery, TicketAnswer, UserEventsQuery } from './events.schema.js';

const tags = ['Events'];
const responses = {
  200: {
    description: 'A page; as a stream: `ready`, then one `event` each, with its cursor as id; `gap` where the cursor is too old.',
    content: { 'application/json': { schema: EventsAnswer }, 'text/event-stream': { schema: z.string() } },
  },
};

export function eventsRoutes(events: Events, streamOptions?: StreamOptions) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/events',
      access: 'user',
      tags,
      summary: 'What happened to what a user has; with ?stream=true as it happens (SSE)',
      request: { params: z.object({ user: z.string() }), query: UserEventsQuery },
      responses,
    }),
    (c) => answer(c, events, c.req.valid('query'), streamOptions),
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/agents/{agent}/events',
      access: 'agent',
      tags,
      summary: 'What happened to an agent; with ?stream=true as it happens (SSE)',
      request: { params: z.object({ user: z.string(), agent: z.string() }), query: EventsQuery },
      responses,
    }),
    (c) => answer(c, events, { ...c.req.valid('query'), agent: c.req.valid('param').agent }, streamOptions),
  );

  router.openapi(
    route({
      method: 'post',
      path: '/users/{user}/ws/tickets',
      access: 'user',
      tags,
      summary: 'A ticket that opens one WebSocket within 30 seconds, for clients that can send no header',
      request: { params: z.object({ user: z.string() }) },
      responses: { 201: json('The ticket.', TicketAnswer) },
    }),
    async (c) => c.json(await events.issueTicket(tenantOf(c), callerOf(c).keyId), 201),
  );

  return router;
}

type Wish = EventsWish & { stream?: 'true' | 'false' | undefined };

async function answer(c: Context<Env>, events: Events, wish: Wish, streamOptions: StreamOptions | undefined) {
  const userId = tenantOf(c);
  if (!wantsStream(c, wish)) return c.json(await events.list(userId, wish), 200);
  const filter = { types: wish.type ?? [], agentId: await events.agentId(userId, wish.agent) };
  // What a client that lost its connection saw last is newer than what it asked for in the first place.
  const after = seqOf(headerOf(c, 'last-event-id') || wish.cursor);
  const audience = { userId, keyId: callerOf(c).keyId, after };
  return streamEvents(
    c,
    (sink) =>
      events.follow(audience, sink.signal, (reader, signal) =>
        writeEvents(sink, reader, { filter, slowMs: events.slowMs, signal }),
      ),
    streamOptions,
  );
}

function wantsStream(c: Context<Env>, { stream }: Wish): boolean {
  return stream === undefined ? (headerOf(c, 'accept') ?? '').includes('text/event-stream') : stream === 'true';
}
