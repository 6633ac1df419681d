import { z } from '@hono/zod-openapi';
import { json } from '../../http/page.js';
import { createRouter, route } from '../../http/router.js';
import type { Figures } from './figures.js';
import type { Health } from './health.js';
import { MonitoringAnswer, ReadyAnswer, SystemAnswer } from './health.schema.js';

export interface HealthRoutesOptions {
  health: Health;
  figures: Figures;
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
export function healthRoutes({ health, figures, version }: HealthRoutesOptions) {
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

  router.openapi(
    route({
      method: 'get',
      path: '/settings/health',
      access: 'admin',
      tags: ['Health'],
      summary: 'What Berth depends on, part by part; 200 whatever is found',
      responses: { 200: json('What was found.', ReadyAnswer) },
    }),
    async (c) => c.json(await health.ready(), 200),
  );

  router.openapi(
    route({
      method: 'get',
      path: '/monitoring/health',
      access: 'admin',
      tags: ['Health'],
      summary: 'The same with the figures of the installation',
      responses: { 200: json('What was found; without figures where the database is away.', MonitoringAnswer) },
    }),
    async (c) => c.json({ ...(await health.ready()), figures: await figures.read().catch(() => null) }, 200),
  );

  router.openapi(
    route({
      method: 'get',
      path: '/system/metrics',
      access: 'admin',
      tags: ['Health'],
      summary: 'How much there is of everything; counted every ten seconds at most. `GET /metrics` has more, for Prometheus',
      responses: { 200: json('The figures.', SystemAnswer) },
    }),
    async (c) => c.json(await figures.read(), 200),
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
        200: json(
          'Ready; or `degraded`: the engine is away, the link folder cannot be written or the disk is nearly full.',
          ReadyAnswer,
        ),
        503: json('The database is away, or sealed with a key that is not here.', ReadyAnswer),
      },
    }),
    async (c) => {
      const answer = await health.ready();
      return c.json(answer, answer.status === 'unavailable' ? 503 : 200);
    },
  );
  return router;
}
