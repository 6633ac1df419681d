import { z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { headerOf } from '../../http/authenticate.js';
import { actsFor } from '../../http/guard.js';
import { json } from '../../http/page.js';
import type { Env } from '../../http/request-state.js';
import { callerOf, createRouter, route, type Router, tenantOf } from '../../http/router.js';
import { streamEvents, type StreamOptions } from '../../http/sse.js';
import type { StoredEvent } from '../../events/outbox.js';
import { AppError } from '../../lib/errors.js';
import type { OwnedEvent } from './all-events.store.js';
import { type AllEventsWish, allGapAnswer, isWanted, ownedAnswer } from './all-events.js';
import { writeEvents } from './event-stream.js';
import { type Events, type EventsWish, seqOf } from './events.js';
import {
  AllEventsAnswer,
  AllEventsQuery,
  eventAnswer,
  EventsAnswer,
  EventsQuery,
  gapAnswer,
  TicketAnswer,
  UserEventsQuery,
} from './events.schema.js';
import { matches } from './filter.js';
import { placeOfCursor } from './place.js';

const tags = ['Events'];
const responses = {
  200: {
    description: 'A page; as a stream: `ready`, then one `event` each, with its cursor as id; `gap` where the cursor is too old.',
    content: { 'application/json': { schema: EventsAnswer }, 'text/event-stream': { schema: z.string() } },
  },
};

export function eventsRoutes(events: Events, streamOptions?: StreamOptions) {
  const router = createRouter();
  addAll(router, events, streamOptions);

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

/** The flat form of the user's route, which for an admin that acts for nobody is everybody's. */
function addAll(router: Router, events: Events, streamOptions: StreamOptions | undefined): void {
  router.openapi(
    route({
      method: 'get',
      path: '/events',
      access: 'any',
      tags,
      summary:
        'What happened to what the key may see: for an admin key, to everything of all users; with ?stream=true as it happens (SSE)',
      request: { query: AllEventsQuery },
      parameters: [WORKSPACE],
      responses: {
        200: {
          description: 'A page, or a stream; to an admin key that acts for nobody, with `user_id` and cursors of its own kind.',
          content: {
            'application/json': { schema: z.union([AllEventsAnswer, EventsAnswer]) },
            'text/event-stream': { schema: z.string() },
          },
        },
      },
    }),
    async (c) => {
      const { user, ...wish } = c.req.valid('query');
      const userId = await actsFor(c, user);
      if (userId === undefined) return answerAll(c, events, { user, ...wish }, streamOptions);
      const caller = callerOf(c);
      if (caller.kind !== 'agent') return answer(c, events, wish, streamOptions);
      if (![undefined, caller.agentId, caller.agentName].includes(wish.agent)) throw new AppError('not_found', 'agent not found');
      return answer(c, events, { ...wish, agent: caller.agentId }, streamOptions);
    },
  );
}

const WORKSPACE = {
  name: 'X-Workspace-ID',
  in: 'header' as const,
  required: false,
  schema: { type: 'string' as const },
  description: 'With an admin key: id or name of the one user whose events are meant.',
};

type Streamed = { stream?: 'true' | 'false' | undefined };
type Wish = EventsWish & Streamed;

async function answerAll(c: Context<Env>, events: Events, wish: AllEventsWish & Streamed, options: StreamOptions | undefined) {
  if (!wantsStream(c, wish)) return c.json(await events.all.list(wish), 200);
  const filter = await events.all.filter(wish);
  const cursor = headerOf(c, 'last-event-id') || wish.cursor;
  placeOfCursor(cursor);
  const telling = { wants: (event: OwnedEvent) => isWanted(filter, event), eventAnswer: ownedAnswer, gapAnswer: allGapAnswer };
  const { slowMs } = events;
  return streamEvents(
    c,
    (sink) =>
      events.followAll({ keyId: callerOf(c).keyId, cursor }, sink.signal, (reader, signal) =>
        writeEvents(sink, { reader, ...telling }, { slowMs, signal }),
      ),
    options,
  );
}

async function answer(c: Context<Env>, events: Events, wish: Wish, streamOptions: StreamOptions | undefined) {
  const userId = tenantOf(c);
  if (!wantsStream(c, wish)) return c.json(await events.list(userId, wish), 200);
  const filter = { types: wish.type ?? [], agentId: await events.agentId(userId, wish.agent) };
  // What a client that lost its connection saw last is newer than what it asked for in the first place.
  const after = seqOf(headerOf(c, 'last-event-id') || wish.cursor);
  const telling = { wants: (event: StoredEvent) => matches(filter, event), eventAnswer, gapAnswer };
  const audience = { userId, keyId: callerOf(c).keyId, after };
  return streamEvents(
    c,
    (sink) =>
      events.follow(audience, sink.signal, (reader, signal) =>
        writeEvents(sink, { reader, ...telling }, { slowMs: events.slowMs, signal }),
      ),
    streamOptions,
  );
}

function wantsStream(c: Context<Env>, { stream }: Streamed): boolean {
  return stream === undefined ? (headerOf(c, 'accept') ?? '').includes('text/event-stream') : stream === 'true';
}
