import { z } from '@hono/zod-openapi';
import { openAiErrorAnswer } from '../../http/errors.js';
import { json, jsonBody } from '../../http/page.js';
import { callerOf, concerns, createRouter, route } from '../../http/router.js';
import { type StreamOptions, streamText } from '../../http/sse.js';
import type { Chat } from './chat.js';
import { originOf } from './chat.routes.js';
import { CHAT_BODY_LIMIT_BYTES, CompletionAnswer, CompletionRequest, Model } from './chat.schema.js';
import { chunkFor, completionOf, type Completions } from './completions.js';

const tags = ['OpenAI-compatible'];

/** Mounted at the root: OpenAI clients append these paths to their base URL. */
export function completionsRoutes({
  chat,
  completions,
  stream,
}: {
  chat: Chat;
  completions: Completions;
  stream?: StreamOptions | undefined;
}) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'get',
      path: '/v1/models',
      access: 'any',
      tags,
      summary: "List the caller's agents as models",
      responses: { 200: json('The agents.', z.object({ object: z.literal('list'), data: z.array(Model) })) },
    }),
    async (c) => c.json({ object: 'list' as const, data: await completions.models(callerOf(c)) }, 200),
  );

  router.openapi(
    route({
      method: 'get',
      path: '/v1/models/{model}{.+}',
      access: 'any',
      tags,
      summary: 'One agent as a model',
      request: { params: z.object({ model: z.string() }) },
      responses: { 200: json('The agent.', Model) },
    }),
    async (c) => c.json(await completions.model(callerOf(c), c.req.valid('param').model), 200),
  );

  router.openapi(
    route({
      method: 'post',
      path: '/v1/chat/completions',
      access: 'any',
      waits: true,
      recordedAlongside: true,
      tags,
      summary: "Chat with an agent by OpenAI's protocol",
      bodyLimitBytes: CHAT_BODY_LIMIT_BYTES,
      request: { body: jsonBody(CompletionRequest) },
      responses: {
        200: {
          description: 'A completion; with `stream: true` its chunks as server-sent events, then `[DONE]`.',
          content: { 'application/json': { schema: CompletionAnswer }, 'text/event-stream': { schema: z.string() } },
        },
      },
    }),
    async (c) => {
      const request = c.req.valid('json');
      const prepared = await completions.prepare(callerOf(c), request, originOf(c));
      concerns(c, prepared.userId);
      const turn = await chat.begin(prepared, c.req.raw.signal);
      if (request.stream !== true) {
        await turn.finish();
        return c.json(completionOf(turn, request.model, Date.now()), 200);
      }
      const created = Math.floor(Date.now() / 1000);
      const includeUsage = request.stream_options?.include_usage === true;
      return streamText(
        c,
        async (out) => {
          for await (const event of turn.events()) {
            const chunk = event.type === 'chunk' ? chunkFor(event.chunk, turn, request.model, created, includeUsage) : undefined;
            const room = chunk === undefined ? undefined : out.write(`data: ${chunk}\n\n`);
            if (room) await room;
          }
          await out.write('data: [DONE]\n\n');
        },
        { ...stream, failure: (error) => `data: ${JSON.stringify(openAiErrorAnswer(error))}\n\ndata: [DONE]\n\n` },
      );
    },
  );

  return router;
}
