import { z } from '@hono/zod-openapi';
import { json, PageQuery } from '../../http/page.js';
import { callerOf, createRouter, requestIdOf, route, tenantOf } from '../../http/router.js';
import { pageRequest } from '../../lib/page.js';
import type { Heartbeats } from './heartbeats.js';
import { BeatAnswer, BeatsAnswer } from './heartbeats.schema.js';

const tags = ['Heartbeats'];
const AgentParams = z.object({ user: z.string(), agent: z.string() });

export function heartbeatsRoutes(heartbeats: Heartbeats) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/agents/{agent}/heartbeats',
      access: 'agent',
      tags,
      summary: "List an agent's heartbeats, newest first, and when the next one is",
      request: { params: AgentParams, query: PageQuery },
      responses: { 200: json('A page of heartbeats, and the schedule.', BeatsAnswer) },
    }),
    async (c) => {
      const { agent } = c.req.valid('param');
      return c.json(await heartbeats.list(tenantOf(c), agent, pageRequest(c.req.valid('query'))), 200);
    },
  );

  router.openapi(
    route({
      method: 'post',
      path: '/users/{user}/agents/{agent}/heartbeats',
      access: 'user',
      tags,
      summary: 'Wake an agent now, beside its schedule',
      request: { params: AgentParams },
      responses: { 202: json('The run, which goes on; `skipped` where HEARTBEAT.md has nothing to do.', BeatAnswer) },
    }),
    async (c) => c.json(await heartbeats.runNow(tenantOf(c), c.req.valid('param').agent, callerOf(c), requestIdOf(c)), 202),
  );

  return router;
}
