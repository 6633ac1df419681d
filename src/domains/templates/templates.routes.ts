import { z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { ifMatch } from '../../http/if-match.js';
import { json, jsonBody } from '../../http/page.js';
import { callerOf, createRouter, requestIdOf, route, type Router, tenantOf } from '../../http/router.js';
import type { Env } from '../../http/request-state.js';
import type { Templates, Writing } from './templates.js';
import {
  AgentTemplatesAnswer,
  UserTemplatesAnswer,
  VariablesAnswer,
  WriteTemplates,
  WriteVariables,
} from './templates.schema.js';

const tags = ['Templates'];
const UserParams = z.object({ user: z.string() });
const AgentParams = z.object({ user: z.string(), agent: z.string() });

export function templatesRoutes(templates: Templates): Router {
  const router = createRouter();
  addDefaults(router, templates);
  addAgents(router, templates);
  addVariables(router, templates);
  return router;
}

function writingOf(c: Context<Env>): Writing {
  return { guard: ifMatch(c), caller: callerOf(c), requestId: requestIdOf(c) };
}

/** With the version as its `ETag`, for the `If-Match` of the next write. */
function versioned<T extends { version: number }>(c: Context<Env>, answer: T): T {
  c.header('ETag', `"${answer.version}"`);
  return answer;
}

function addDefaults(router: Router, templates: Templates): void {
  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/agent-templates',
      access: 'user',
      tags,
      summary: "The user's default templates",
      request: { params: UserParams },
      responses: { 200: json('Each file, with its source and version.', UserTemplatesAnswer) },
    }),
    async (c) => c.json(versioned(c, await templates.defaults(tenantOf(c))), 200),
  );

  router.openapi(
    route({
      method: 'put',
      path: '/users/{user}/agent-templates',
      access: 'user',
      tags,
      summary: "Change the user's default templates: what is not named stays, null removes; in the next turn of every agent",
      request: { params: UserParams, body: jsonBody(WriteTemplates) },
      responses: { 200: json('The files as they are now.', UserTemplatesAnswer) },
    }),
    async (c) => c.json(versioned(c, await templates.writeDefaults(tenantOf(c), c.req.valid('json'), writingOf(c))), 200),
  );
}

function addAgents(router: Router, templates: Templates): void {
  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/agents/{agent}/templates',
      access: 'agent',
      tags,
      summary: "The agent's templates: what holds, from which layer, and as the agent gets it",
      request: { params: AgentParams },
      responses: { 200: json('Each file, with its source, version and rendered text.', AgentTemplatesAnswer) },
    }),
    async (c) => c.json(versioned(c, await templates.ofAgent(tenantOf(c), c.req.valid('param').agent)), 200),
  );

  router.openapi(
    route({
      method: 'put',
      path: '/users/{user}/agents/{agent}/templates',
      access: 'user',
      tags,
      summary: "Change the agent's own templates: what is not named stays, null removes; in its next turn",
      request: { params: AgentParams, body: jsonBody(WriteTemplates) },
      responses: { 200: json('The files as they are now.', AgentTemplatesAnswer) },
    }),
    async (c) => {
      const { agent } = c.req.valid('param');
      return c.json(versioned(c, await templates.writeAgent(tenantOf(c), agent, c.req.valid('json'), writingOf(c))), 200);
    },
  );
}

function addVariables(router: Router, templates: Templates): void {
  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/template-variables',
      access: 'user',
      tags,
      summary: 'The variables that the user has defined for templates',
      request: { params: UserParams },
      responses: { 200: json('Values by name.', VariablesAnswer) },
    }),
    async (c) => c.json(versioned(c, await templates.variables(tenantOf(c))), 200),
  );

  router.openapi(
    route({
      method: 'put',
      path: '/users/{user}/template-variables',
      access: 'user',
      tags,
      summary: 'Change variables: what is not named stays, null removes; in the next turn of every agent',
      request: { params: UserParams, body: jsonBody(WriteVariables) },
      responses: { 200: json('All values as they are now.', VariablesAnswer) },
    }),
    async (c) => c.json(versioned(c, await templates.writeVariables(tenantOf(c), c.req.valid('json'), writingOf(c))), 200),
  );
}
