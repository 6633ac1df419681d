import { z } from '@hono/zod-openapi';
import { json, jsonBody, pageAnswer, PageQuery } from '../../http/page.js';
import { createRouter, route, type Router } from '../../http/router.js';
import { streamEvents } from '../../http/sse.js';
import { pageRequest } from '../../lib/page.js';
import type { Rollouts } from './rollouts.js';
import { BeginRollout, RolloutAnswer } from './rollouts.schema.js';

const tags = ['Installation'];
const Params = z.object({ rollout: z.string().max(64) });

export function rolloutsRoutes(rollouts: Rollouts): Router {
  const router = createRouter();
  addBegin(router, rollouts);
  addReads(router, rollouts);
  addTurn(router, 'pause', 'Begin no further wave', (id) => rollouts.pause(id));
  addTurn(router, 'resume', 'Go on with further waves', (id) => rollouts.resume(id));
  addTurn(router, 'undo', 'End a rollout, and take its deployments back to the image they had', (id) => rollouts.undo(id));
  return router;
}

function addBegin(router: Router, rollouts: Rollouts): void {
  router.openapi(
    route({
      method: 'post',
      path: '/rollouts',
      access: 'admin',
      tags,
      summary: 'Give all deployments another image, wave after wave, as long as they are well with it',
      request: { body: jsonBody(BeginRollout) },
      responses: { 202: json('It has begun.', RolloutAnswer) },
    }),
    async (c) => c.json(await rollouts.begin(c.req.valid('json')), 202),
  );

  router.openapi(
    route({
      method: 'get',
      path: '/rollouts',
      access: 'admin',
      tags,
      summary: 'List rollouts',
      request: { query: PageQuery },
      responses: { 200: json('A page of rollouts.', pageAnswer(RolloutAnswer)) },
    }),
    async (c) => c.json(await rollouts.list(pageRequest(c.req.valid('query'))), 200),
  );
}

function addReads(router: Router, rollouts: Rollouts): void {
  router.openapi(
    route({
      method: 'get',
      path: '/rollouts/{rollout}',
      access: 'admin',
      tags,
      summary: 'How far a rollout is; with ?watch=true a stream of events until it has ended',
      request: { params: Params, query: z.object({ watch: z.enum(['true', 'false']).optional() }) },
      responses: {
        200: {
          description: 'The rollout; as a stream: one `rollout` event for each change, then `ended`.',
          content: { 'application/json': { schema: RolloutAnswer }, 'text/event-stream': { schema: z.string() } },
        },
      },
    }),
    async (c) => {
      const id = c.req.valid('param').rollout;
      const now = await rollouts.get(id);
      if (c.req.valid('query').watch !== 'true') return c.json(now, 200);
      return streamEvents(c, async (sink) => {
        for await (const rollout of rollouts.watch(id, sink.signal))
          await sink.send({ event: rollout.ended_at === null ? 'rollout' : 'ended', data: rollout });
      });
    },
  );
}

function addTurn(router: Router, verb: string, summary: string, turn: (id: string) => Promise<RolloutAnswer>): void {
  router.openapi(
    route({
      method: 'post',
      path: `/rollouts/{rollout}/${verb}`,
      access: 'admin',
      tags,
      summary,
      request: { params: Params },
      responses: { 200: json('The rollout.', RolloutAnswer) },
    }),
    async (c) => c.json(await turn(c.req.valid('param').rollout), 200),
  );
}
