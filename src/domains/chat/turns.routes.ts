import { z } from '@hono/zod-openapi';
import { json } from '../../http/page.js';
import { createRouter, route, tenantOf } from '../../http/router.js';
import type { StreamOptions } from '../../http/sse.js';
import { STREAM_EVENTS } from './chat.routes.js';
import { lastEventIdOf, streamTurn } from './turn-stream.routes.js';
import { TurnAnswer } from './turns.schema.js';
import type { Turns } from './turns.js';

const tags = ['Chat'];
const TurnParams = z.object({ user: z.string(), agent: z.string(), turn: z.string() });

export function turnsRoutes({ turns, stream }: { turns: Turns; stream?: StreamOptions | undefined }) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/agents/{agent}/turns/{turn}',
      access: 'agent',
      tags,
      summary: 'State, answer, usage and model calls of a turn',
      request: { params: TurnParams },
      responses: { 200: json('The turn.', TurnAnswer) },
    }),
    async (c) => {
      const { agent, turn } = c.req.valid('param');
      return c.json(await turns.get(tenantOf(c), agent, turn), 200);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/agents/{agent}/turns/{turn}/stream',
      access: 'agent',
      waits: true,
      tags,
      summary: 'Resume the stream of a turn (SSE)',
      request: { params: TurnParams },
      responses: {
        200: {
          description: `${STREAM_EVENTS} Those after \`Last-Event-ID\`; without it all.`,
          content: { 'text/event-stream': { schema: z.string() } },
        },
        204: { description: 'The turn has ended, and `Last-Event-ID` is its last event.' },
      },
    }),
    async (c) => {
      const { agent, turn } = c.req.valid('param');
      const row = await turns.find(tenantOf(c), agent, turn);
      const seen = lastEventIdOf(c, row.id) ?? { turnId: row.id, seq: -1 };
      return streamTurn(c, turns, { row }, seen, stream);
    },
  );

  router.openapi(
    route({
      method: 'post',
      path: '/users/{user}/agents/{agent}/turns/{turn}/cancel',
      access: 'agent',
      tags,
      summary: 'Cancel a turn',
      request: { params: TurnParams },
      responses: { 200: json('The turn, which has ended; or is about to, and says so in `cancelling`.', TurnAnswer) },
    }),
    async (c) => {
      const { agent, turn } = c.req.valid('param');
      return c.json(await turns.cancel(tenantOf(c), agent, turn), 200);
    },
  );

  return router;
}
