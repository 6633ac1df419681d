import { z } from '@hono/zod-openapi';
import { json, jsonBody, pageAnswer, PageQuery } from '../../http/page.js';
import { callerOf, createRouter, requestIdOf, route, tenantOf } from '../../http/router.js';
import { pageRequest } from '../../lib/page.js';
import type { ApiKeys } from './api-keys.js';
import { CreateAdminKey, CreateUserKey, KeyAnswer, KeyParam, NewKeyAnswer } from './api-keys.schema.js';

const tags = ['API keys'];
const UserParams = z.object({ user: z.string() });
const UserKeyParams = z.object({ user: z.string(), key: KeyParam });

export function apiKeysRoutes(keys: ApiKeys) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/keys',
      access: 'user',
      tags,
      summary: "List a user's API keys, masked",
      request: { params: UserParams, query: PageQuery },
      responses: { 200: json('A page of keys.', pageAnswer(KeyAnswer)) },
    }),
    async (c) => c.json(await keys.list(tenantOf(c), pageRequest(c.req.valid('query'))), 200),
  );

  router.openapi(
    route({
      method: 'post',
      path: '/users/{user}/keys',
      access: 'user',
      tags,
      summary: 'Create a user or agent key; it is shown this once',
      request: { params: UserParams, body: jsonBody(CreateUserKey) },
      responses: { 201: json('The key.', NewKeyAnswer) },
    }),
    async (c) => c.json(await keys.create(tenantOf(c), c.req.valid('json'), callerOf(c), requestIdOf(c)), 201),
  );

  router.openapi(
    route({
      method: 'delete',
      path: '/users/{user}/keys/{key}',
      access: 'user',
      tags,
      summary: 'Revoke a key at once',
      request: { params: UserKeyParams },
      responses: { 204: { description: 'The key is dead.' } },
    }),
    async (c) => {
      await keys.revoke(tenantOf(c), c.req.valid('param').key, callerOf(c), requestIdOf(c));
      return c.body(null, 204);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: '/admin/keys',
      access: 'admin',
      tags,
      summary: 'List admin keys, masked',
      request: { query: PageQuery },
      responses: { 200: json('A page of keys.', pageAnswer(KeyAnswer)) },
    }),
    async (c) => c.json(await keys.listAdmin(pageRequest(c.req.valid('query'))), 200),
  );

  router.openapi(
    route({
      method: 'post',
      path: '/admin/keys',
      access: 'admin',
      tags,
      summary: 'Create an admin key; it is shown this once',
      request: { body: jsonBody(CreateAdminKey) },
      responses: { 201: json('The key.', NewKeyAnswer) },
    }),
    async (c) => c.json(await keys.createAdmin(c.req.valid('json')), 201),
  );

  router.openapi(
    route({
      method: 'delete',
      path: '/admin/keys/{key}',
      access: 'admin',
      tags,
      summary: 'Revoke an admin key at once',
      request: { params: z.object({ key: KeyParam }) },
      responses: { 204: { description: 'The key is dead.' } },
    }),
    async (c) => {
      await keys.revokeAdmin(c.req.valid('param').key);
      return c.body(null, 204);
    },
  );

  return router;
}
