import { z } from '@hono/zod-openapi';
import { json, pageAnswer, PageQuery } from '../../http/page.js';
import { createRouter, route, type Router, tenantOf } from '../../http/router.js';
import { pageRequest } from '../../lib/page.js';
import type { Deployments } from './deployments.js';
import { DeploymentAnswer, DeploymentDetail, RevisionAnswer, RevisionDiff } from './deployments.schema.js';

const tags = ['Deployments'];
const Params = z.object({ user: z.string(), deployment: z.string() });
const RevisionNumber = z.coerce.number().int().min(1).max(1_000_000_000);

/** What there is to run, and what it was. Changes of it are made in the domain `revisions`, and wherever else agents are changed. */
export function historyRoutes(deployments: Deployments): Router {
  const router = createRouter();
  addDeployments(router, deployments);
  addRevisions(router, deployments);
  return router;
}

function addDeployments(router: Router, deployments: Deployments): void {
  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/deployments',
      access: 'user',
      tags,
      summary: 'List deployments: what each is to run, and how far that is',
      request: { params: z.object({ user: z.string() }), query: PageQuery },
      responses: { 200: json('A page of deployments.', pageAnswer(DeploymentAnswer)) },
    }),
    async (c) => c.json(await deployments.list(tenantOf(c), pageRequest(c.req.valid('query'))), 200),
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/deployments/{deployment}',
      access: 'user',
      tags,
      summary: 'Get a deployment, with the containers that it has and had',
      request: { params: Params },
      responses: { 200: json('The deployment. Its ETag is its revision, for If-Match.', DeploymentDetail) },
    }),
    async (c) => {
      const answer = await deployments.get(tenantOf(c), c.req.valid('param').deployment);
      c.header('ETag', `"${answer.revision}"`);
      return c.json(answer, 200);
    },
  );
}

function addRevisions(router: Router, deployments: Deployments): void {
  const path = '/users/{user}/deployments/{deployment}/revisions' as const;

  router.openapi(
    route({
      method: 'get',
      path,
      access: 'user',
      tags,
      summary: 'List the revisions of a deployment, newest first: who changed what it runs, when, and in what',
      request: { params: Params, query: PageQuery },
      responses: { 200: json('A page of revisions.', pageAnswer(RevisionAnswer)) },
    }),
    async (c) => {
      const page = pageRequest(c.req.valid('query'));
      return c.json(await deployments.history.list(tenantOf(c), c.req.valid('param').deployment, page), 200);
    },
  );

  // Before the one below, which would take `diff` for a number.
  router.openapi(
    route({
      method: 'get',
      path: `${path}/diff`,
      access: 'user',
      tags,
      summary: 'Where two revisions of a deployment differ',
      request: { params: Params, query: z.object({ from: RevisionNumber, to: RevisionNumber }) },
      responses: { 200: json('The differences.', RevisionDiff) },
    }),
    async (c) => {
      const { from, to } = c.req.valid('query');
      return c.json(await deployments.history.diff(tenantOf(c), c.req.valid('param').deployment, from, to), 200);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: `${path}/{revision}`,
      access: 'user',
      tags,
      summary: 'Get one revision of a deployment',
      request: { params: Params.extend({ revision: RevisionNumber }) },
      responses: { 200: json('The revision.', RevisionAnswer) },
    }),
    async (c) => {
      const { deployment, revision } = c.req.valid('param');
      return c.json(await deployments.history.get(tenantOf(c), deployment, revision), 200);
    },
  );
}
