import { z } from '@hono/zod-openapi';
import { ifMatch, tagged } from '../../http/if-match.js';
import { json, jsonBody, pageAnswer, PageQuery } from '../../http/page.js';
import { originOf } from '../../http/origin.js';
import { callerOf, createRouter, requestIdOf, route, tenantOf } from '../../http/router.js';
import { pageRequest } from '../../lib/page.js';
import type { Agents } from './agents.js';
import { AgentAnswer, ConnectAnswer, CreateAgents, NewAgentAnswer, PingAnswer, UpdateAgent } from './agents.schema.js';
import { connectionOf } from './connection.js';

const tags = ['Agents'];
const UserParams = z.object({ user: z.string() });
const AgentParams = z.object({ user: z.string(), agent: z.string() });

export interface AgentsRoutesOptions {
  agents: Agents;
  /** The installation's public origin, where it is set. */
  publicUrl: string | undefined;
}

export function agentsRoutes({ agents, publicUrl }: AgentsRoutesOptions) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'post',
      path: '/users/{user}/agents',
      access: 'user',
      tags,
      summary: 'Create one or more agents: all of them or none',
      request: { params: UserParams, body: jsonBody(CreateAgents) },
      responses: {
        202: json(
          'Made, and on their way to a container: see deploy/status. One agent was asked for: the agent; several: `{"agents": […]}`.',
          z.union([NewAgentAnswer, z.object({ agents: z.array(NewAgentAnswer) })]),
        ),
      },
    }),
    async (c) => {
      const body = c.req.valid('json');
      const wishes = Array.isArray(body) ? body : 'agents' in body ? body.agents : undefined;
      const made = await agents.create(
        tenantOf(c),
        wishes ?? [body as Exclude<typeof body, unknown[] | { agents: unknown }>],
        callerOf(c),
        requestIdOf(c),
      );
      const [first] = made;
      return c.json(wishes === undefined && first ? first : { agents: made }, 202);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/agents',
      access: 'user',
      tags,
      summary: "List a user's agents",
      request: { params: UserParams, query: PageQuery },
      responses: { 200: json('A page of agents.', pageAnswer(AgentAnswer)) },
    }),
    async (c) => c.json(await agents.list(tenantOf(c), pageRequest(c.req.valid('query'))), 200),
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/agents/{agent}',
      access: 'agent',
      tags,
      summary: 'Get an agent',
      request: { params: AgentParams },
      responses: { 200: json('The agent.', AgentAnswer) },
    }),
    async (c) => tagged(c, await agents.get(tenantOf(c), c.req.valid('param').agent)),
  );

  router.openapi(
    route({
      method: 'put',
      path: '/users/{user}/agents/{agent}',
      access: 'user',
      tags,
      summary: 'Change an agent: what is not named stays, null empties; applied without a restart',
      request: { params: AgentParams, body: jsonBody(UpdateAgent) },
      responses: { 200: json('The agent as it is now.', AgentAnswer) },
    }),
    async (c) => {
      const { agent } = c.req.valid('param');
      return c.json(await agents.update(tenantOf(c), agent, c.req.valid('json'), ifMatch(c), callerOf(c), requestIdOf(c)), 200);
    },
  );

  router.openapi(
    route({
      method: 'delete',
      path: '/users/{user}/agents/{agent}',
      access: 'user',
      tags,
      summary: 'Delete an agent, its keys, conversations and workspace',
      request: { params: AgentParams },
      responses: {
        202: json(
          'Gone from the API; its workspace is being removed.',
          z.object({ id: z.string(), name: z.string(), status: z.literal('deleting') }),
        ),
      },
    }),
    async (c) => {
      const gone = await agents.delete(tenantOf(c), c.req.valid('param').agent, callerOf(c), requestIdOf(c));
      return c.json({ ...gone, status: 'deleting' as const }, 202);
    },
  );

  for (const [verb, desired, summary] of [
    ['start', 'running', 'Let an agent run again'],
    [
      'stop',
      'stopped',
      'Stop an agent: no turn of it runs; its container sleeps when no other agent needs it, its files stay within reach',
    ],
    [
      'restart',
      'restarted',
      'Begin an agent anew: another container takes the place of the one it is in, and of all agents there, as their turns end',
    ],
  ] as const) {
    router.openapi(
      route({
        method: 'post',
        path: `/users/{user}/agents/{agent}/${verb}`,
        access: 'user',
        tags,
        summary,
        request: { params: AgentParams },
        responses: { 202: json('The agent as it is wished now; deploy/status shows how far that is.', AgentAnswer) },
      }),
      async (c) =>
        c.json(await agents.setDesire(tenantOf(c), c.req.valid('param').agent, desired, callerOf(c), requestIdOf(c)), 202),
    );
  }

  router.openapi(
    route({
      method: 'post',
      path: '/users/{user}/agents/{agent}/rotate-key',
      access: 'user',
      tags,
      summary: "Replace the agent's own key; the old one is dead at once",
      request: { params: AgentParams },
      responses: { 200: json('The new key, shown this once.', z.object({ agent: z.string(), api_key: z.string() })) },
    }),
    async (c) => c.json(await agents.rotateKey(tenantOf(c), c.req.valid('param').agent, callerOf(c), requestIdOf(c)), 200),
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/agents/{agent}/ping',
      access: 'agent',
      waits: true,
      tags,
      summary: 'Ask the agent in its container whether it is there',
      request: { params: AgentParams },
      responses: { 200: json('Its gateway answered.', PingAnswer) },
    }),
    async (c) => {
      const { agent, latencyMs } = await agents.ping(tenantOf(c), c.req.valid('param').agent);
      return c.json({ agent, status: 'online' as const, latency_ms: Math.round(latencyMs * 1000) / 1000 }, 200);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/agents/{agent}/connect',
      access: 'agent',
      tags,
      summary: 'How an OpenAI client reaches the agent',
      request: { params: AgentParams },
      responses: { 200: json('Base URL, model and authentication.', ConnectAnswer) },
    }),
    async (c) => {
      const agent = await agents.get(tenantOf(c), c.req.valid('param').agent);
      return c.json(connectionOf(publicUrl ?? originOf(c), agent), 200);
    },
  );

  return router;
}
