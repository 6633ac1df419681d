import { z } from '@hono/zod-openapi';
import { ifMatch, tagged } from '../../http/if-match.js';
import { json, pageAnswer, PageQuery } from '../../http/page.js';
import { callerOf, createRouter, requestIdOf, route, tenantOf } from '../../http/router.js';
import { pageRequest } from '../../lib/page.js';
import type { Configs } from './configs.js';
import { ConfigAnswer, ConfigChanged, ConfigPatch, ConfigVersion } from './configs.schema.js';

const tags = ['Config'];
const path = '/users/{user}/agents/{agent}/config';
const AgentParams = z.object({ user: z.string(), agent: z.string() });
const VersionParams = AgentParams.extend({ version: z.coerce.number().int().min(1).max(1_000_000_000) });
const etag = { headers: z.object({ ETag: z.string().openapi({ description: 'The version, for If-Match.' }) }) };

export function configsRoutes(configs: Configs) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'get',
      path,
      access: 'agent',
      tags,
      summary: "An agent's config: what is in force, what was set for it, and the defaults",
      request: { params: AgentParams },
      responses: { 200: { ...json('The config.', ConfigAnswer), ...etag } },
    }),
    async (c) => tagged(c, await configs.get(tenantOf(c), c.req.valid('param').agent)),
  );

  router.openapi(
    route({
      method: 'patch',
      path,
      access: 'user',
      tags,
      summary: "Change an agent's config by a JSON merge patch; null lets the default show through",
      request: {
        params: AgentParams,
        body: {
          required: true as const,
          content: { 'application/json': { schema: ConfigPatch }, 'application/merge-patch+json': { schema: ConfigPatch } },
        },
      },
      responses: { 200: { ...json('The config as it is now, and how the change gets to the agent.', ConfigChanged), ...etag } },
    }),
    async (c) => {
      const { agent } = c.req.valid('param');
      return tagged(c, await configs.patch(tenantOf(c), agent, c.req.valid('json'), ifMatch(c), callerOf(c), requestIdOf(c)));
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: `${path}/versions`,
      access: 'user',
      tags,
      summary: 'The versions of the config, newest first',
      request: { params: AgentParams, query: PageQuery },
      responses: { 200: json('A page of versions.', pageAnswer(ConfigVersion)) },
    }),
    async (c) => {
      const page = pageRequest(c.req.valid('query'));
      return c.json(await configs.versions(tenantOf(c), c.req.valid('param').agent, page), 200);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: `${path}/versions/{version}`,
      access: 'user',
      tags,
      summary: 'One version of the config',
      request: { params: VersionParams },
      responses: { 200: json('The version.', ConfigVersion) },
    }),
    async (c) => {
      const { agent, version } = c.req.valid('param');
      return c.json(await configs.version(tenantOf(c), agent, version), 200);
    },
  );

  router.openapi(
    route({
      method: 'post',
      path: `${path}/versions/{version}/restore`,
      access: 'user',
      tags,
      summary: 'Make the config what it was at a version; that is a new version',
      request: { params: VersionParams },
      responses: { 200: { ...json('The config as it is now.', ConfigChanged), ...etag } },
    }),
    async (c) => {
      const { agent, version } = c.req.valid('param');
      return tagged(c, await configs.restore(tenantOf(c), agent, version, ifMatch(c), callerOf(c), requestIdOf(c)));
    },
  );

  return router;
}
