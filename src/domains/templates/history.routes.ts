import { z } from '@hono/zod-openapi';
import { ifMatch, tagged } from '../../http/if-match.js';
import { json, pageAnswer, PageQuery } from '../../http/page.js';
import { callerOf, createRouter, requestIdOf, route, type Router, tenantOf } from '../../http/router.js';
import { pageRequest } from '../../lib/page.js';
import type { Templates } from './templates.js';
import {
  AgentTemplatesAnswer,
  DiffAnswer,
  DiffQuery,
  FileParam,
  ForgetQuery,
  ForgottenAnswer,
  UserTemplatesAnswer,
  VersionAnswer,
  VersionParam,
  VersionTextAnswer,
} from './templates.schema.js';

const tags = ['Templates'];

/** The same routes for the user's defaults and for an agent's own templates. */
const OF_USER = {
  base: '/users/{user}/agent-templates/{file}',
  /** Who may look; changes are the user's in any case. */
  reads: 'user',
  file: z.object({ user: z.string(), file: FileParam }),
  version: z.object({ user: z.string(), file: FileParam, version: VersionParam }),
  answer: UserTemplatesAnswer,
  whose: "of the user's default",
} as const;
const OF_AGENT = {
  base: '/users/{user}/agents/{agent}/templates/{file}',
  reads: 'agent',
  file: z.object({ user: z.string(), agent: z.string(), file: FileParam }),
  version: z.object({ user: z.string(), agent: z.string(), file: FileParam, version: VersionParam }),
  answer: AgentTemplatesAnswer,
  whose: "of the agent's own text",
} as const;
type Layer = typeof OF_USER | typeof OF_AGENT;

export function templateHistoryRoutes(templates: Templates): Router {
  const router = createRouter();
  for (const layer of [OF_USER, OF_AGENT]) {
    addReads(router, templates, layer);
    addWrites(router, templates, layer);
  }
  return router;
}

function scopeOf(params: { user: string; agent?: string }): string | undefined {
  return params.agent;
}

function addReads(router: Router, templates: Templates, { base, reads: access, file, version, whose }: Layer): void {
  router.openapi(
    route({
      method: 'get',
      path: `${base}/versions`,
      access,
      tags,
      summary: `The versions ${whose}, newest first`,
      request: { params: file, query: PageQuery },
      responses: { 200: json('A page of versions.', pageAnswer(VersionAnswer)) },
    }),
    async (c) => {
      const params = c.req.valid('param');
      const page = pageRequest(c.req.valid('query'));
      return c.json(await templates.versions(tenantOf(c), scopeOf(params), params.file, page), 200);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: `${base}/versions/{version}`,
      access,
      tags,
      summary: `One version ${whose}`,
      request: { params: version },
      responses: { 200: json('The version with its text.', VersionTextAnswer) },
    }),
    async (c) => {
      const params = c.req.valid('param');
      return c.json(await templates.version(tenantOf(c), scopeOf(params), params.file, params.version), 200);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: `${base}/diff`,
      access,
      tags,
      summary: `What changed between two versions ${whose}`,
      request: { params: file, query: DiffQuery },
      responses: { 200: json('A unified diff.', DiffAnswer) },
    }),
    async (c) => {
      const params = c.req.valid('param');
      return c.json(await templates.diff(tenantOf(c), scopeOf(params), params.file, c.req.valid('query')), 200);
    },
  );
}

function addWrites(router: Router, templates: Templates, { base, file, version, answer, whose }: Layer): void {
  router.openapi(
    route({
      method: 'post',
      path: `${base}/versions/{version}/restore`,
      access: 'user',
      tags,
      summary: `Make an old version ${whose} the newest again`,
      request: { params: version },
      responses: { 200: json('The files as they are now.', answer) },
    }),
    async (c) => {
      const params = c.req.valid('param');
      const writing = { guard: ifMatch(c), caller: callerOf(c), requestId: requestIdOf(c) };
      return tagged(c, await templates.restore(tenantOf(c), scopeOf(params), params.file, params.version, writing));
    },
  );

  router.openapi(
    route({
      method: 'delete',
      path: `${base}/versions`,
      access: 'user',
      tags,
      summary: `Remove old versions ${whose} for good`,
      request: { params: file, query: ForgetQuery },
      responses: { 200: json('How many are gone.', ForgottenAnswer) },
    }),
    async (c) => {
      const params = c.req.valid('param');
      const writing = { caller: callerOf(c), requestId: requestIdOf(c) };
      const removed = await templates.forget(tenantOf(c), scopeOf(params), params.file, c.req.valid('query').before, writing);
      return c.json({ removed }, 200);
    },
  );
}
