import { z } from '@hono/zod-openapi';
import { json } from '../../http/page.js';
import { createRouter, route } from '../../http/router.js';
import type { Health } from './health.js';

const Part = z.object({ status: z.enum(['ok', 'unavailable']), detail: z.string() });
const Ready = z
  .object({ status: z.enum(['ready', 'degraded', 'unavailable']), parts: z.object({ database: Part, engine: Part }) })
  .openapi('Ready');

export interface HealthRoutesOptions {
  health: Health;
  version: string;
}

/** Whether this process lives, in the one word that load balancers look for. */
export function livenessRoutes() {
  const router = createRouter();
  router.openapi(
    route({
      method: 'get',
      path: '/health',
      access: 'public',
      unlimited: true,
      tags: ['Health'],
      summary: 'Whether Berth is up; no key needed',
      responses: { 200: json('It is.', z.object({ status: z.literal('ok') })) },
    }),
    (c) => c.json({ status: 'ok' as const }, 200),
  );
  return router;
}

/** The same under the API's base, with who answers. */
export function healthRoutes({ version }: Pick<HealthRoutesOptions, 'version'>) {
  const router = createRouter();
  router.openapi(
    route({
      method: 'get',
      path: '/health',
      access: 'public',
      unlimited: true,
      tags: ['Health'],
      summary: 'Whether Berth is up, and which version; no key needed',
      operationId: 'getApiHealth',
      responses: { 200: json('It is.', z.object({ status: z.literal('ok'), service: z.literal('berth'), version: z.string() })) },
    }),
    (c) => c.json({ status: 'ok' as const, service: 'berth' as const, version }, 200),
  );
  return router;
}

/** Whether it can do its work. */
export function readyRoutes({ health }: Pick<HealthRoutesOptions, 'health'>) {
  const router = createRouter();
  router.openapi(
    route({
      method: 'get',
      path: '/ready',
      access: 'public',
      tags: ['Health'],
      summary: 'Whether Berth can do its work, dependency by dependency',
      responses: {
        200: json('Ready; or `degraded`: the engine is away, and all that needs no new container works.', Ready),
        503: json('The database is away.', Ready),
      },
    }),
    async (c) => {
      const answer = await health.ready();
      return c.json(answer, answer.status === 'unavailable' ? 503 : 200);
    },
  );
  return router;
}
