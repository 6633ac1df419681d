import { z } from '@hono/zod-openapi';
import { json, jsonBody, pageAnswer, PageQuery } from '../../http/page.js';
import { bodyStreamOf } from '../../http/request-stream.js';
import { callerOf, createRouter, ErrorAnswer, requestIdOf, route, tenantOf } from '../../http/router.js';
import { pageRequest } from '../../lib/page.js';
import { ResourceName } from '../agents/names.js';
import type { Snapshots } from './snapshots.js';
import { ArrivingAgent, DeletedAgent, DuplicateAgent, UndeleteAgent } from './snapshots.schema.js';

const tags = ['Snapshots'];
const AGENT = '/users/{user}/agents/{agent}';
const UserParams = z.object({ user: z.string() });
const AgentParams = z.object({ user: z.string(), agent: z.string() });
const NewAgentParams = z.object({ user: z.string(), agent: ResourceName });
const Archive = { 'application/x-tar': { schema: z.string().openapi({ format: 'binary' }) } };

function failed(description: string) {
  return { description, content: { 'application/json': { schema: ErrorAnswer } } };
}
const NO_ROOM = failed("The user's snapshots take what its tier allows, or the disk is full; the message has the figures.");

/** Agents that begin with what another one has or had. */
export function copiesRoutes(snapshots: Snapshots) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'post',
      path: `${AGENT}/duplicate`,
      access: 'user',
      tags,
      summary: 'Make another agent like this one, with its workspace, memory and conversations or without',
      description: 'Its settings are those of now; secrets of its own and keys are not copied.',
      request: { params: AgentParams, body: jsonBody(DuplicateAgent) },
      responses: { 202: json('Made, and its state on the way: see `restore`.', ArrivingAgent), 507: NO_ROOM },
    }),
    async (c) => {
      const { agent } = c.req.valid('param');
      return c.json(await snapshots.copies.duplicate(tenantOf(c), agent, c.req.valid('json'), callerOf(c), requestIdOf(c)), 202);
    },
  );

  router.openapi(
    route({
      method: 'put',
      path: `${AGENT}/import`,
      access: 'user',
      streamsBody: true,
      tags,
      summary: 'Make an agent of that name out of an export, whole or not at all',
      description: 'Skills and plugins are found by name; `restore.left_out` says what could not be had here.',
      request: { params: NewAgentParams, body: { required: true, content: Archive } },
      responses: {
        202: json('Read, found sound, and on its way: see `restore`.', ArrivingAgent),
        408: failed('The body came too slowly.'),
        409: failed('There is an agent of that name.'),
        413: failed("It is more than the user's tier allows; the message has the figures."),
        422: failed('It is no export, was altered, or has something in it that may not be.'),
        507: NO_ROOM,
      },
    }),
    async (c) => {
      const body = bodyStreamOf(c);
      const incoming = { body, lengthBytes: body.lengthBytes };
      const { agent } = c.req.valid('param');
      return c.json(await snapshots.copies.import(tenantOf(c), agent, incoming, callerOf(c), requestIdOf(c)), 202);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/deleted-agents',
      access: 'user',
      tags,
      summary: 'List the agents that were deleted and can be brought back',
      request: { params: UserParams, query: PageQuery },
      responses: { 200: json('A page of agents.', pageAnswer(DeletedAgent)) },
    }),
    async (c) => c.json(await snapshots.copies.deleted(tenantOf(c), pageRequest(c.req.valid('query'))), 200),
  );

  router.openapi(
    route({
      method: 'post',
      path: `${AGENT}/undelete`,
      access: 'user',
      tags,
      summary: 'Bring a deleted agent back, by its name or id: settings, workspace, memory and conversations',
      description: 'It has a new key; its secrets are gone.',
      request: { params: AgentParams, body: jsonBody(UndeleteAgent) },
      responses: { 202: json('Made, and its state on the way: see `restore`.', ArrivingAgent) },
    }),
    async (c) => {
      const { agent } = c.req.valid('param');
      return c.json(
        await snapshots.copies.undelete(tenantOf(c), agent, c.req.valid('json').name, callerOf(c), requestIdOf(c)),
        202,
      );
    },
  );

  return router;
}
