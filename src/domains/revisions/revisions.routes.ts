import { z } from '@hono/zod-openapi';
import { ifMatch } from '../../http/if-match.js';
import { json, jsonBody } from '../../http/page.js';
import { changeOf, createRouter, route, type Router, tenantOf } from '../../http/router.js';
import { DeploymentAnswer } from '../deployments/deployments.schema.js';
import type { Revisions } from './revisions.js';
import { CreateDeployment, NewDeployment, RolledBack, UpdateDeployment } from './revisions.schema.js';

const tags = ['Deployments'];
const path = '/users/{user}/deployments' as const;
const Params = z.object({ user: z.string(), deployment: z.string() });

export function revisionsRoutes(revisions: Revisions): Router {
  const router = createRouter();

  router.openapi(
    route({
      method: 'post',
      path,
      access: 'user',
      tags,
      summary: 'Create an agent with a container of its own, of that image, limits and network',
      request: { params: z.object({ user: z.string() }), body: jsonBody(CreateDeployment) },
      responses: {
        202: json('Made, and on its way: see deploy/status. The key of its agent is shown this once.', NewDeployment),
      },
    }),
    async (c) => c.json(await revisions.create(tenantOf(c), c.req.valid('json'), changeOf(c)), 202),
  );

  router.openapi(
    route({
      method: 'put',
      path: `${path}/{deployment}`,
      access: 'user',
      tags,
      summary: 'Change what a deployment runs: image, limits and network of a dedicated one, configs of its agents',
      request: { params: Params, body: jsonBody(UpdateDeployment) },
      responses: { 200: json('As it is to be now; how far that is, is its status.', DeploymentAnswer) },
    }),
    async (c) => {
      const asking = { ...changeOf(c), guard: ifMatch(c) };
      const answer = await revisions.update(tenantOf(c), c.req.valid('param').deployment, c.req.valid('json'), asking);
      c.header('ETag', `"${answer.revision}"`);
      return c.json(answer, 200);
    },
  );

  router.openapi(
    route({
      method: 'delete',
      path: `${path}/{deployment}`,
      access: 'user',
      tags,
      summary: 'Delete a deployment with all agents in it, as if each were deleted',
      request: { params: Params },
      responses: {
        202: json(
          'Its agents are gone from the API; the container and its files are being removed.',
          z.object({ id: z.string(), agents: z.array(z.string()), status: z.literal('deleting') }),
        ),
      },
    }),
    async (c) => {
      const gone = await revisions.delete(tenantOf(c), c.req.valid('param').deployment, { ...changeOf(c), guard: ifMatch(c) });
      return c.json({ ...gone, status: 'deleting' as const }, 202);
    },
  );

  router.openapi(
    route({
      method: 'post',
      path: `${path}/{deployment}/revisions/{revision}/rollback`,
      access: 'user',
      tags,
      summary: 'Have a deployment run again what was wished of it at a revision: as a new one, whole or not at all',
      request: { params: Params.extend({ revision: z.coerce.number().int().min(1).max(1_000_000_000) }) },
      responses: { 202: json('The new revision, and where it still differs from that one.', RolledBack) },
    }),
    async (c) => {
      const { deployment, revision } = c.req.valid('param');
      return c.json(await revisions.rollBack(tenantOf(c), deployment, revision, { ...changeOf(c), guard: ifMatch(c) }), 202);
    },
  );

  return router;
}
