import { z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { ifMatch, tagged } from '../../http/if-match.js';
import { json, jsonBody, pageAnswer, PageQuery } from '../../http/page.js';
import { callerOf, createRouter, requestIdOf, route, tenantOf } from '../../http/router.js';
import { pageRequest } from '../../lib/page.js';
import type { Asking, Secrets } from './secrets.js';
import { PublicKeyAnswer, PutQuery, PutSecrets, PutSecretsAnswer, SecretAnswer } from './secrets.schema.js';

const tags = ['Secrets'];
const OF_USER = '/users/{user}/secrets';
const OF_AGENT = '/users/{user}/agents/{agent}/secrets';
const UserParams = z.object({ user: z.string() });
const AgentParams = z.object({ user: z.string(), agent: z.string() });
const key = z.string().openapi({ description: 'The name of the secret.' });

export function secretsRoutes(secrets: Secrets) {
  const router = createRouter();
  const list = json('A page of secrets, without their values; the ETag is the version of all of them.', pageAnswer(SecretAnswer));
  const put = json('The secrets as they are now.', PutSecretsAnswer);
  const gone = { 204: { description: 'It is gone, and the next turn is without it.' } };
  const publicKey = { 200: json('For `crypto_box_seal`.', PublicKeyAnswer) };
  const conflict = { description: 'The agent shares its container with others: see `shared`.' };

  router.openapi(
    route({
      method: 'get',
      path: OF_USER,
      access: 'user',
      tags,
      summary: "List a user's secrets, masked",
      request: { params: UserParams, query: PageQuery },
      responses: { 200: list },
    }),
    async (c) => {
      const { version, ...page } = await secrets.list(tenantOf(c), undefined, pageRequest(c.req.valid('query')));
      c.header('ETag', `"${version}"`);
      return c.json(page, 200);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: OF_AGENT,
      access: 'user',
      tags,
      summary: 'List what secrets an agent gets, masked: its own, and those of its user that it has none of that name of',
      request: { params: AgentParams, query: PageQuery },
      responses: { 200: list },
    }),
    async (c) => {
      const { agent } = c.req.valid('param');
      const { version, ...page } = await secrets.list(tenantOf(c), agent, pageRequest(c.req.valid('query')));
      c.header('ETag', `"${version}"`);
      return c.json(page, 200);
    },
  );

  router.openapi(
    route({
      method: 'put',
      path: OF_USER,
      access: 'user',
      tags,
      summary: 'Set and delete secrets of a user: all of them or none; the next turn of every agent has them',
      request: { params: UserParams, body: jsonBody(PutSecrets) },
      responses: { 200: put },
    }),
    async (c) => tagged(c, await secrets.put(tenantOf(c), undefined, c.req.valid('json'), false, askingOf(c))),
  );

  router.openapi(
    route({
      method: 'put',
      path: OF_AGENT,
      access: 'user',
      tags,
      summary: "Set and delete an agent's own secrets, which stand before those of its user",
      request: { params: AgentParams, query: PutQuery, body: jsonBody(PutSecrets) },
      responses: { 200: put, 409: conflict },
    }),
    async (c) => {
      const { agent } = c.req.valid('param');
      const shared = c.req.valid('query').shared === 'true';
      return tagged(c, await secrets.put(tenantOf(c), agent, c.req.valid('json'), shared, askingOf(c)));
    },
  );

  router.openapi(
    route({
      method: 'delete',
      path: `${OF_USER}/{key}`,
      access: 'user',
      tags,
      summary: 'Delete a secret of a user',
      request: { params: UserParams.extend({ key }) },
      responses: gone,
    }),
    async (c) => {
      await secrets.delete(tenantOf(c), undefined, c.req.valid('param').key, askingOf(c));
      return c.body(null, 204);
    },
  );

  router.openapi(
    route({
      method: 'delete',
      path: `${OF_AGENT}/{key}`,
      access: 'user',
      tags,
      summary: "Delete an agent's own secret; that of its user, if there is one, is seen again",
      request: { params: AgentParams.extend({ key }) },
      responses: gone,
    }),
    async (c) => {
      const { agent, key: name } = c.req.valid('param');
      await secrets.delete(tenantOf(c), agent, name, askingOf(c));
      return c.body(null, 204);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: `${OF_USER}/public-key`,
      access: 'user',
      tags,
      summary: 'The key under which values can be sealed before they are sent',
      request: { params: UserParams },
      responses: publicKey,
    }),
    async (c) => c.json(await secrets.publicKey(tenantOf(c)), 200),
  );

  router.openapi(
    route({
      method: 'get',
      path: `${OF_AGENT}/public-key`,
      access: 'user',
      tags,
      summary: 'The same key: there is one a user',
      request: { params: AgentParams },
      responses: publicKey,
    }),
    async (c) => c.json(await secrets.publicKey(tenantOf(c), c.req.valid('param').agent), 200),
  );

  return router;
}

function askingOf(c: Context): Asking {
  return { caller: callerOf(c), requestId: requestIdOf(c), version: ifMatch(c) };
}
