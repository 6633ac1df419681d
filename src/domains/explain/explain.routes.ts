import { z } from '@hono/zod-openapi';
import { json } from '../../http/page.js';
import { createRouter, route, tenantOf } from '../../http/router.js';
import type { Explain } from './explain.js';
import { AgentStatsAnswer, ExplainAnswer } from './explain.schema.js';

const tags = ['Agents'];
const AgentParams = z.object({ user: z.string(), agent: z.string() });

export function explainRoutes(explain: Explain) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/agents/{agent}/explain',
      access: 'agent',
      tags,
      summary: 'Why an agent is not running, slow or refusing; what Berth does next, and what you can do',
      request: { params: AgentParams },
      responses: { 200: json('The answer in plain words, with its evidence.', ExplainAnswer) },
    }),
    async (c) => c.json(await explain.agent(tenantOf(c), c.req.valid('param').agent, c.req.raw.signal), 200),
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/agents/{agent}/stats',
      access: 'agent',
      tags,
      summary: 'What an agent takes and has done: memory, CPU, turns, tokens, uptime, restarts',
      request: { params: AgentParams },
      responses: { 200: json('Figures of now, of today and of this month.', AgentStatsAnswer) },
    }),
    async (c) => c.json(await explain.stats(tenantOf(c), c.req.valid('param').agent, c.req.raw.signal), 200),
  );

  return router;
}
