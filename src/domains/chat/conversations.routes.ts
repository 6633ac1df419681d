import { z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { onceOf } from '../../http/idempotency.js';
import { json, jsonBody, pageAnswer, PageQuery } from '../../http/page.js';
import type { Env } from '../../http/request-state.js';
import { callerOf, createRouter, requestIdOf, route, type Router, tenantOf } from '../../http/router.js';
import { pageRequest } from '../../lib/page.js';
import type { Chat } from './chat.js';
import { answerChat, originOf } from './chat.routes.js';
import { CHAT_BODY_LIMIT_BYTES, ChatAnswer } from './chat.schema.js';
import { type Conversations, markdownOf, type Whose } from './conversations.js';
import {
  Conversation,
  ConversationMessage,
  ConversationWithMessages,
  CreateConversation,
  CreateConversationOfAgent,
  RenameConversation,
  Search,
  SendMessage,
} from './conversations.schema.js';
import type { Turns } from './turns.js';

export interface ConversationsRoutesOptions {
  conversations: Conversations;
  chat: Chat;
  turns: Turns;
}

const tags = ['Conversations'];
const Id = { conversation: z.string() };
/** Where conversations are found: all of a user, and those of one agent, which its own key may see too. */
const PLACES = [
  { path: '/users/{user}/conversations', access: 'user', of: '', params: z.object({ user: z.string() }) },
  {
    path: '/users/{user}/agents/{agent}/conversations',
    access: 'agent',
    of: ' of an agent',
    params: z.object({ user: z.string(), agent: z.string() }),
  },
] as const;

export function conversationsRoutes(options: ConversationsRoutesOptions) {
  const router = createRouter();
  router.openapi(
    route({
      method: 'post',
      path: '/users/{user}/conversations',
      access: 'user',
      tags,
      summary: 'Begin a conversation',
      request: { params: z.object({ user: z.string() }), body: jsonBody(CreateConversation) },
      responses: { 201: json('The conversation, still empty.', Conversation) },
    }),
    async (c) => {
      const { agent, title } = c.req.valid('json');
      return c.json(await options.conversations.create({ userId: tenantOf(c), agent }, title), 201);
    },
  );
  router.openapi(
    route({
      method: 'post',
      path: '/users/{user}/agents/{agent}/conversations',
      access: 'agent',
      tags,
      summary: 'Begin a conversation with an agent',
      request: { params: PLACES[1].params, body: jsonBody(CreateConversationOfAgent) },
      responses: { 201: json('The conversation, still empty.', Conversation) },
    }),
    async (c) => c.json(await options.conversations.create(whoseOf(c), c.req.valid('json').title), 201),
  );
  for (const place of PLACES) {
    readRoutes(router, place, options);
    changeRoutes(router, place, options);
  }
  return router;
}

type Place = (typeof PLACES)[number];

function readRoutes(router: Router, { path, access, of, params }: Place, { conversations }: ConversationsRoutesOptions): void {
  router.openapi(
    route({
      method: 'get',
      path,
      access,
      tags,
      summary: `List the conversations${of}, the last used first, or search in them`,
      request: { params, query: PageQuery.extend({ query: Search, agent: z.string().max(64).optional() }) },
      responses: { 200: json('A page of conversations.', pageAnswer(Conversation)) },
    }),
    async (c) => {
      const { query, agent, ...page } = c.req.valid('query');
      const whose = whoseOf(c);
      return c.json(await conversations.list({ agent, ...whose }, query, pageRequest(page)), 200);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: `${path}/{conversation}`,
      access,
      tags,
      summary: `Get a conversation${of} with its last messages`,
      request: { params: params.extend(Id) },
      responses: { 200: json('The conversation.', ConversationWithMessages) },
    }),
    async (c) => c.json(await conversations.get(whoseOf(c), c.req.valid('param').conversation), 200),
  );

  router.openapi(
    route({
      method: 'get',
      path: `${path}/{conversation}/messages`,
      access,
      tags,
      summary: `Messages of a conversation${of}, a page of turns at a time`,
      request: { params: params.extend(Id), query: PageQuery.extend({ order: z.enum(['asc', 'desc']).optional() }) },
      responses: { 200: json('The messages of some turns.', pageAnswer(ConversationMessage)) },
    }),
    async (c) => {
      const { order = 'asc', ...page } = c.req.valid('query');
      return c.json(await conversations.messages(whoseOf(c), c.req.valid('param').conversation, pageRequest(page), order), 200);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: `${path}/{conversation}/export`,
      access,
      tags,
      summary: `All of a conversation${of} in one piece`,
      request: { params: params.extend(Id), query: z.object({ format: z.enum(['json', 'markdown']).optional() }) },
      responses: {
        200: {
          description: 'The conversation, at most 32 MB of it.',
          content: {
            'application/json': { schema: z.object({ conversation: Conversation, messages: z.array(ConversationMessage) }) },
            'text/markdown': { schema: z.string() },
          },
        },
      },
    }),
    async (c) => {
      const id = c.req.valid('param').conversation;
      const exported = await conversations.export(whoseOf(c), id);
      if (c.req.valid('query').format !== 'markdown') return c.json(exported, 200);
      return c.body(markdownOf(exported), 200, { 'Content-Type': 'text/markdown; charset=utf-8' });
    },
  );
}

function changeRoutes(router: Router, { path, access, of, params }: Place, options: ConversationsRoutesOptions): void {
  const { conversations, chat, turns } = options;
  router.openapi(
    route({
      method: 'patch',
      path: `${path}/{conversation}`,
      access,
      tags,
      summary: `Rename a conversation${of}`,
      request: { params: params.extend(Id), body: jsonBody(RenameConversation) },
      responses: { 200: json('The conversation.', Conversation) },
    }),
    async (c) =>
      c.json(await conversations.rename(whoseOf(c), c.req.valid('param').conversation, c.req.valid('json').title), 200),
  );

  router.openapi(
    route({
      method: 'delete',
      path: `${path}/{conversation}`,
      access,
      tags,
      summary: `Delete a conversation${of}, what its instance keeps of it too`,
      request: { params: params.extend(Id) },
      responses: { 204: { description: 'It is gone. An instance that is not up forgets it when it is.' } },
    }),
    async (c) => {
      await conversations.delete(whoseOf(c), c.req.valid('param').conversation, callerOf(c), requestIdOf(c));
      return c.body(null, 204);
    },
  );

  router.openapi(
    route({
      method: 'post',
      path: `${path}/{conversation}/messages`,
      access,
      waits: true,
      seesToOnce: true,
      tags,
      summary: `Send a message in a conversation${of}, and get the answer`,
      bodyLimitBytes: CHAT_BODY_LIMIT_BYTES,
      request: { params: params.extend(Id), body: jsonBody(SendMessage) },
      responses: { 200: json("The agent's answer.", ChatAnswer) },
    }),
    async (c) => {
      const id = c.req.valid('param').conversation;
      const agentId = await conversations.agentOf(whoseOf(c), id);
      const memory = { kind: 'conversation' as const, id };
      const wish = { messages: messagesIn(c.req.valid('json')), memory, origin: originOf(c) };
      return c.json(await answerChat(c, { chat, turns, once: onceOf(c) }, agentId, wish), 200);
    },
  );
}

function whoseOf(c: Context<Env>): Whose {
  const { agent } = c.req.param() as { agent?: string };
  return agent === undefined ? { userId: tenantOf(c) } : { userId: tenantOf(c), agent };
}

function messagesIn(body: SendMessage): unknown[] {
  if ('messages' in body) return body.messages;
  return [{ role: 'user', content: 'content' in body ? body.content : body.message }];
}
