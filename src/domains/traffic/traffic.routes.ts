import { z } from '@hono/zod-openapi';
import { json } from '../../http/page.js';
import { createRouter, route, tenantOf } from '../../http/router.js';
import type { Traffic } from './traffic.js';
import { NetworkAnswer, NetworkQuery } from './traffic.schema.js';

export function trafficRoutes(traffic: Traffic) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/agents/{agent}/network',
      access: 'user',
      tags: ['Config'],
      summary: "An agent's network policy in force, and what went out by host",
      request: { params: z.object({ user: z.string(), agent: z.string() }), query: NetworkQuery },
      responses: { 200: json('The policy, and a page of hosts in the order of their names.', NetworkAnswer) },
    }),
    async (c) => c.json(await traffic.network(tenantOf(c), c.req.valid('param').agent, c.req.valid('query')), 200),
  );

  return router;
}
