import { z } from '@hono/zod-openapi';
import { createRouter, route } from '../../http/router.js';
import type { Tiers } from './tiers.js';
import { TierAnswer } from './tiers.schema.js';

export function tiersRoutes(tiers: Tiers) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'get',
      path: '/tiers',
      access: 'any',
      tags: ['Tiers'],
      summary: 'List the tiers and their limits',
      responses: {
        200: { description: 'All tiers.', content: { 'application/json': { schema: z.object({ data: z.array(TierAnswer) }) } } },
      },
    }),
    async (c) => c.json({ data: await tiers.list() }, 200),
  );

  return router;
}
