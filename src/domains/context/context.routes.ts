import { z } from '@hono/zod-openapi';
import { json } from '../../http/page.js';
import { createRouter, route, tenantOf } from '../../http/router.js';
import type { Context } from './context.js';
import { AssembledContextAnswer, ContextAnswer } from './context.schema.js';

const tags = ['Context'];
const AgentParams = z.object({ user: z.string(), agent: z.string() });

export function contextRoutes(context: Context) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/agents/{agent}/context',
      access: 'agent',
      waits: true,
      tags,
      summary: 'The system prompt and the tools of the next turn, with their tokens',
      request: { params: AgentParams },
      responses: { 200: json('What the next turn will send, byte for byte.', ContextAnswer) },
    }),
    async (c) => c.json(await context.get(tenantOf(c), c.req.valid('param').agent, c.req.raw.signal), 200),
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/agents/{agent}/assembled-context',
      access: 'agent',
      waits: true,
      tags,
      summary: 'The same as persona, plugins in two tiers, and tools',
      request: { params: AgentParams },
      responses: { 200: json('What the next turn will send, and what of it is whose.', AssembledContextAnswer) },
    }),
    async (c) => c.json(await context.assembled(tenantOf(c), c.req.valid('param').agent, c.req.raw.signal), 200),
  );

  return router;
}
