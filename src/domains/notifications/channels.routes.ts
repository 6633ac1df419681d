import { z } from '@hono/zod-openapi';
import { ifMatch, tagged } from '../../http/if-match.js';
import { json, jsonBody, PageQuery } from '../../http/page.js';
import { changeOf, createRouter, route, type Router, tenantOf } from '../../http/router.js';
import { pageRequest } from '../../lib/page.js';
import type { Channels } from './channels.js';
import {
  ChannelAnswer,
  ChannelsAnswer,
  ConfirmChannel,
  CreateChannel,
  NewChannelAnswer,
  SentAnswer,
  UpdateChannel,
} from './channels.schema.js';

const tags = ['Notifications'];
const Params = z.object({ user: z.string() });
const ChannelParams = Params.extend({ channel: z.string() });
const PATH = '/users/{user}/notifications/channels';
const ONE = `${PATH}/{channel}` as const;

export function channelsRoutes(channels: Channels): Router {
  const router = createRouter();
  addChannels(router, channels);
  addSending(router, channels);
  return router;
}

function addChannels(router: Router, channels: Channels): void {
  router.openapi(
    route({
      method: 'get',
      path: PATH,
      access: 'user',
      tags,
      summary: 'Channels that notifications go out by, besides the inbox',
      request: { params: Params, query: PageQuery },
      responses: { 200: json('A page.', ChannelsAnswer) },
    }),
    async (c) => c.json(await channels.list(tenantOf(c), pageRequest(c.req.valid('query'))), 200),
  );

  router.openapi(
    route({
      method: 'post',
      path: PATH,
      access: 'user',
      tags,
      summary: 'Add a channel: a signed webhook, a Slack-compatible URL, or an address, which is mailed a code',
      request: { params: Params, body: jsonBody(CreateChannel) },
      responses: { 201: json("The channel, with a webhook's secret, shown this once.", NewChannelAnswer) },
    }),
    async (c) => c.json(await channels.create(tenantOf(c), c.req.valid('json'), changeOf(c), c.req.raw.signal), 201),
  );

  router.openapi(
    route({
      method: 'get',
      path: ONE,
      access: 'user',
      tags,
      summary: 'A channel',
      request: { params: ChannelParams },
      responses: { 200: json('The channel; its version is the ETag.', ChannelAnswer) },
    }),
    async (c) => tagged(c, await channels.get(tenantOf(c), c.req.valid('param').channel)),
  );

  router.openapi(
    route({
      method: 'put',
      path: ONE,
      access: 'user',
      tags,
      summary: 'Change a channel: what the body names',
      request: { params: ChannelParams, body: jsonBody(UpdateChannel) },
      responses: { 200: json('The channel as it is now.', NewChannelAnswer) },
    }),
    async (c) => {
      const { channel } = c.req.valid('param');
      const { signal } = c.req.raw;
      return tagged(c, await channels.update(tenantOf(c), channel, c.req.valid('json'), ifMatch(c), changeOf(c), signal));
    },
  );

  router.openapi(
    route({
      method: 'delete',
      path: ONE,
      access: 'user',
      tags,
      summary: 'Delete a channel, and what waits to go out by it',
      request: { params: ChannelParams },
      responses: { 204: { description: 'It is gone.' } },
    }),
    async (c) => {
      await channels.delete(tenantOf(c), c.req.valid('param').channel, changeOf(c));
      return c.body(null, 204);
    },
  );
}

function addSending(router: Router, channels: Channels): void {
  router.openapi(
    route({
      method: 'post',
      path: `${ONE}/confirm`,
      access: 'user',
      tags,
      summary: 'Confirm an address by the code that was mailed to it',
      request: { params: ChannelParams, body: jsonBody(ConfirmChannel) },
      responses: { 200: json('The channel as it is now.', ChannelAnswer) },
    }),
    async (c) => {
      const { code } = c.req.valid('json');
      return tagged(c, await channels.confirm(tenantOf(c), c.req.valid('param').channel, code, changeOf(c)));
    },
  );

  router.openapi(
    route({
      method: 'post',
      path: `${ONE}/code`,
      access: 'user',
      tags,
      summary: 'Mail another code; the one before it is not good any more',
      request: { params: ChannelParams },
      responses: { 200: json('What came of it.', SentAnswer) },
    }),
    async (c) => c.json(await channels.resendCode(tenantOf(c), c.req.valid('param').channel, c.req.raw.signal), 200),
  );

  router.openapi(
    route({
      method: 'post',
      path: `${ONE}/test`,
      access: 'user',
      tags,
      summary: 'Send a test now, and say what came of it',
      request: { params: ChannelParams },
      responses: { 200: json('What came of it.', SentAnswer) },
    }),
    async (c) => c.json(await channels.test(tenantOf(c), c.req.valid('param').channel, c.req.raw.signal), 200),
  );
}
