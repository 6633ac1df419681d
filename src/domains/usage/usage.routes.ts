import { z } from '@hono/zod-openapi';
import { json } from '../../http/page.js';
import { createRouter, route, tenantOf } from '../../http/router.js';
import { UsageAnswer } from './usage.schema.js';
import type { Usage } from './usage.js';

export function usageRoutes(usage: Usage) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/usage',
      access: 'user',
      tags: ['Usage'],
      summary: 'Tokens of the current month: totals, by agent, by model, by day',
      request: { params: z.object({ user: z.string() }) },
      responses: { 200: json('The month so far (UTC).', UsageAnswer) },
    }),
    async (c) => c.json(await usage.month(tenantOf(c)), 200),
  );

  return router;
}
