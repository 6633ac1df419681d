import { z } from '@hono/zod-openapi';
import { createRouter, route, tenantOf } from '../../http/router.js';
import { streamEvents } from '../../http/sse.js';
import type { Deployments } from './deployments.js';
import { DeployStatus } from './deployments.schema.js';

export interface DeploymentsRoutesOptions {
  deployments: Deployments;
  /** The name of a user by id. */
  nameOf: (userId: string) => Promise<string>;
}

export function deploymentsRoutes({ deployments, nameOf }: DeploymentsRoutesOptions) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/deploy/status',
      access: 'user',
      tags: ['Deployments'],
      summary: 'How far the deployments are; with ?watch=true a stream of events until they settle',
      request: { params: z.object({ user: z.string() }), query: z.object({ watch: z.enum(['true', 'false']).optional() }) },
      responses: {
        200: {
          description: 'The status; as a stream: one `status` event for each change, then `settled`.',
          content: { 'application/json': { schema: DeployStatus }, 'text/event-stream': { schema: z.string() } },
        },
      },
    }),
    async (c) => {
      const userId = tenantOf(c);
      const name = await nameOf(userId);
      if (c.req.valid('query').watch !== 'true') return c.json(await deployments.status(userId, name), 200);
      return streamEvents(c, async (sink) => {
        for await (const status of deployments.watch(userId, name, sink.signal)) {
          await sink.send({ event: status.settled ? 'settled' : 'status', data: status });
        }
      });
    },
  );

  return router;
}
