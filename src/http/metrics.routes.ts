import { z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { AppError } from '../lib/errors.js';
import { authenticate, credentialOf, headerOf } from './authenticate.js';
import type { HttpMetrics } from './metrics.js';
import { json } from './page.js';
import { networkOf } from './rate-limit.js';
import type { Env } from './request-state.js';
import { createRouter, ErrorAnswer, route, type Router } from './router.js';

/** `GET /metrics` for Prometheus: open to this machine, by admin key to others. */
export function metricsRoutes(metrics: HttpMetrics): Router {
  const router = createRouter();
  router.openapi(
    route({
      method: 'get',
      path: '/metrics',
      access: 'public',
      unlimited: true,
      tags: ['System'],
      summary: 'Metrics in the Prometheus format; from another machine with an admin key',
      responses: {
        200: { description: 'Metrics.', content: { 'text/plain': { schema: z.string() } } },
        401: json('From another machine, without a valid key.', ErrorAnswer),
        403: json('From another machine, with a key that is no admin key.', ErrorAnswer),
      },
    }),
    async (c) => {
      if (!isLocal(c)) await needAdmin(c);
      return new Response(await metrics.registry.metrics(), {
        headers: { 'Content-Type': metrics.registry.contentType },
      }) as never;
    },
  );
  return router;
}

/** A request that says it was forwarded did not begin here, unless a trusted proxy on this machine says from where it came. */
function isLocal(c: Context<Env>): boolean {
  const remote = c.env.incoming?.socket.remoteAddress;
  const isForwarded = headerOf(c, 'x-forwarded-for') !== undefined || headerOf(c, 'forwarded') !== undefined;
  if (remote === undefined || (isForwarded && c.env.berth.ip === remote)) return false;
  return c.env.berth.ip === '::1' || networkOf(c.env.berth.ip).startsWith('127.');
}

async function needAdmin(c: Context<Env>): Promise<void> {
  const key = credentialOf(c);
  if (key === undefined) throw new AppError('unauthorized', 'no API key: send X-API-Key or Authorization: Bearer');
  const caller = await authenticate(c.env.berth.services.authenticator, key);
  if (!caller) throw new AppError('unauthorized', 'the API key is not valid');
  if (caller.kind !== 'admin') throw new AppError('forbidden', 'this needs an admin key');
}
