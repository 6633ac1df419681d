import { z } from '@hono/zod-openapi';
import { ifMatch, tagged } from '../../http/if-match.js';
import { json, jsonBody, pageAnswer, PageQuery } from '../../http/page.js';
import { callerOf, concerns, createRouter, requestIdOf, route, tenantOf } from '../../http/router.js';
import { pageRequest } from '../../lib/page.js';
import type { Users } from './users.js';
import { ChangeTier, CreateUser, NewUserAnswer, UserAnswer, UserWithAgents } from './users.schema.js';

const tags = ['Users'];
const UserParams = z.object({ user: z.string() });

export function usersRoutes(users: Users) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'post',
      path: '/users',
      access: 'admin',
      tags,
      summary: 'Create a user; the answer carries its first API key, once',
      request: { body: jsonBody(CreateUser) },
      responses: { 201: json('The user.', NewUserAnswer) },
    }),
    async (c) => {
      const user = await users.create(c.req.valid('json'), callerOf(c), requestIdOf(c));
      concerns(c, user.id);
      return c.json(user, 201);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users',
      access: 'admin',
      tags,
      summary: 'List all users',
      request: { query: PageQuery },
      responses: { 200: json('A page of users.', pageAnswer(UserAnswer)) },
    }),
    async (c) => c.json(await users.list(pageRequest(c.req.valid('query'))), 200),
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}',
      access: 'user',
      tags,
      summary: 'Get a user with its agents',
      request: { params: UserParams },
      responses: { 200: json('The user.', UserWithAgents) },
    }),
    async (c) => tagged(c, await users.get(tenantOf(c))),
  );

  router.openapi(
    route({
      method: 'put',
      path: '/users/{user}/tier',
      access: 'admin',
      tags,
      summary: "Change a user's tier; its limits hold at once",
      request: { params: UserParams, body: jsonBody(ChangeTier) },
      responses: { 200: json('The user as it is now.', UserAnswer) },
    }),
    async (c) =>
      c.json(await users.changeTier(tenantOf(c), c.req.valid('json').tier, ifMatch(c), callerOf(c), requestIdOf(c)), 200),
  );

  router.openapi(
    route({
      method: 'delete',
      path: '/users/{user}',
      access: 'user',
      tags,
      summary: 'Delete a user with all its data',
      request: { params: UserParams },
      responses: {
        202: json(
          'Keys and agents are dead; containers, volumes and rows are being removed. 404 once nothing is left.',
          UserAnswer,
        ),
      },
    }),
    async (c) => c.json(await users.delete(tenantOf(c), callerOf(c), requestIdOf(c)), 202),
  );

  return router;
}
