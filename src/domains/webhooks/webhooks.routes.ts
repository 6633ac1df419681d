import { z } from '@hono/zod-openapi';
import { ifMatch, tagged } from '../../http/if-match.js';
import { json, jsonBody, PageQuery } from '../../http/page.js';
import { changeOf, createRouter, route, tenantOf } from '../../http/router.js';
import { pageRequest } from '../../lib/page.js';
import type { DeliveryLog } from './delivery-log.js';
import type { Webhooks } from './webhooks.js';
import {
  CreateWebhook,
  DeliveriesAnswer,
  DeliveriesQuery,
  DeliveryDetail,
  NewWebhookAnswer,
  RotateSecret,
  TestAnswer,
  UpdateWebhook,
  WebhookAnswer,
  WebhooksAnswer,
} from './webhooks.schema.js';

const tags = ['Webhooks'];
const Params = z.object({ user: z.string() });
const WebhookParams = Params.extend({ webhook: z.string() });
const DeliveryParams = WebhookParams.extend({ delivery: z.string() });

export function webhooksRoutes(webhooks: Webhooks, log: DeliveryLog) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/webhooks',
      access: 'user',
      tags,
      summary: 'Webhooks of a user',
      request: { params: Params, query: PageQuery },
      responses: { 200: json('A page.', WebhooksAnswer) },
    }),
    async (c) => c.json(await webhooks.list(tenantOf(c), pageRequest(c.req.valid('query'))), 200),
  );

  router.openapi(
    route({
      method: 'post',
      path: '/users/{user}/webhooks',
      access: 'user',
      tags,
      summary: 'Send events to a URL from now on, signed as of standardwebhooks.com',
      request: { params: Params, body: jsonBody(CreateWebhook) },
      responses: { 201: json('The webhook, with its secret, shown this once.', NewWebhookAnswer) },
    }),
    async (c) => c.json(await webhooks.create(tenantOf(c), c.req.valid('json'), changeOf(c)), 201),
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/webhooks/{webhook}',
      access: 'user',
      tags,
      summary: 'A webhook',
      request: { params: WebhookParams },
      responses: { 200: json('The webhook; its version is the ETag.', WebhookAnswer) },
    }),
    async (c) => tagged(c, await webhooks.get(tenantOf(c), c.req.valid('param').webhook)),
  );

  router.openapi(
    route({
      method: 'put',
      path: '/users/{user}/webhooks/{webhook}',
      access: 'user',
      tags,
      summary: 'Change a webhook: what the body names',
      request: { params: WebhookParams, body: jsonBody(UpdateWebhook) },
      responses: { 200: json('The webhook as it is now.', WebhookAnswer) },
    }),
    async (c) => {
      const { webhook } = c.req.valid('param');
      return tagged(c, await webhooks.update(tenantOf(c), webhook, c.req.valid('json'), ifMatch(c), changeOf(c)));
    },
  );

  router.openapi(
    route({
      method: 'delete',
      path: '/users/{user}/webhooks/{webhook}',
      access: 'user',
      tags,
      summary: 'Delete a webhook, and the log of what was sent to it',
      request: { params: WebhookParams },
      responses: { 204: { description: 'It is gone.' } },
    }),
    async (c) => {
      await webhooks.delete(tenantOf(c), c.req.valid('param').webhook, changeOf(c));
      return c.body(null, 204);
    },
  );

  router.openapi(
    route({
      method: 'post',
      path: '/users/{user}/webhooks/{webhook}/rotate-secret',
      access: 'user',
      tags,
      summary: 'Another secret; the one before it signs too for a while',
      request: { params: WebhookParams, body: jsonBody(RotateSecret) },
      responses: { 200: json('The webhook, with its new secret, shown this once.', NewWebhookAnswer) },
    }),
    async (c) => c.json(await webhooks.rotate(tenantOf(c), c.req.valid('param').webhook, c.req.valid('json'), changeOf(c)), 200),
  );

  router.openapi(
    route({
      method: 'post',
      path: '/users/{user}/webhooks/{webhook}/test',
      access: 'user',
      tags,
      summary: 'Send a test now, and say what the receiver answered',
      request: { params: WebhookParams },
      responses: { 200: json('What came of it.', TestAnswer) },
    }),
    async (c) => c.json(await log.test(tenantOf(c), c.req.valid('param').webhook, c.req.raw.signal), 200),
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/webhooks/{webhook}/deliveries',
      access: 'user',
      tags,
      summary: 'What was sent, newest first',
      request: { params: WebhookParams, query: DeliveriesQuery },
      responses: { 200: json('A page.', DeliveriesAnswer) },
    }),
    async (c) => {
      const { status, ...page } = c.req.valid('query');
      return c.json(await log.list(tenantOf(c), c.req.valid('param').webhook, status, pageRequest(page)), 200);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/webhooks/{webhook}/deliveries/{delivery}',
      access: 'user',
      tags,
      summary: 'A delivery: its body, and each attempt with its answer',
      request: { params: DeliveryParams },
      responses: { 200: json('The delivery.', DeliveryDetail) },
    }),
    async (c) => {
      const { webhook, delivery } = c.req.valid('param');
      return c.json(await log.get(tenantOf(c), webhook, delivery), 200);
    },
  );

  router.openapi(
    route({
      method: 'post',
      path: '/users/{user}/webhooks/{webhook}/deliveries/{delivery}/replay',
      access: 'user',
      tags,
      summary: 'Send it again, under the same id',
      request: { params: DeliveryParams },
      responses: { 202: json('It is on its way.', DeliveryDetail) },
    }),
    async (c) => {
      const { webhook, delivery } = c.req.valid('param');
      return c.json(await log.replay(tenantOf(c), webhook, delivery), 202);
    },
  );

  return router;
}
