import { z } from '@hono/zod-openapi';
import { json, jsonBody } from '../../http/page.js';
import { createRouter, route, tenantOf } from '../../http/router.js';
import { streamEvents, type StreamOptions } from '../../http/sse.js';
import type { Chat } from './chat.js';
import { CHAT_BODY_LIMIT_BYTES, ChatAnswer, ChatRequest } from './chat.schema.js';
import type { RunningTurn } from './turn.js';

const tags = ['Chat'];
const AgentParams = z.object({ user: z.string(), agent: z.string() });

function wishOf(body: ChatRequest) {
  return { messages: body.messages, memory: { kind: 'conversation' as const, id: body.conversation_id } };
}

export function chatRoutes(chat: Chat, stream?: StreamOptions) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'post',
      path: '/users/{user}/agents/{agent}/chat',
      access: 'agent',
      waits: true,
      recordedAlongside: true,
      tags,
      summary: 'Send messages and get the answer',
      bodyLimitBytes: CHAT_BODY_LIMIT_BYTES,
      request: { params: AgentParams, body: jsonBody(ChatRequest) },
      responses: { 200: json("The agent's answer.", ChatAnswer) },
    }),
    async (c) => {
      const prepared = await chat.prepare(tenantOf(c), c.req.valid('param').agent, wishOf(c.req.valid('json')));
      const turn = await chat.begin(prepared, c.req.raw.signal);
      await turn.finish();
      return c.json(answerOf(turn), 200);
    },
  );

  router.openapi(
    route({
      method: 'post',
      path: '/users/{user}/agents/{agent}/chat/stream',
      access: 'agent',
      waits: true,
      recordedAlongside: true,
      tags,
      summary: 'Send messages and get the answer as it is written (SSE)',
      bodyLimitBytes: CHAT_BODY_LIMIT_BYTES,
      request: { params: AgentParams, body: jsonBody(ChatRequest) },
      responses: {
        200: {
          description:
            'Events `start`, `waiting` (the agent is not ready yet), `text` {delta}, `tool_call`, `tool_result`, `done`; `error` ends a failed turn.',
          content: { 'text/event-stream': { schema: z.string() } },
        },
      },
    }),
    async (c) => {
      const prepared = await chat.prepare(tenantOf(c), c.req.valid('param').agent, wishOf(c.req.valid('json')));
      return streamEvents(
        c,
        async (sink) => {
          const { turnId: turn_id, conversationId: conversation_id, agent } = prepared;
          await sink.send({ event: 'start', data: { turn_id, conversation_id, agent } });
          const turn = await chat.begin(prepared, sink.signal, (reason) => sink.send({ event: 'waiting', data: { reason } }));
          for await (const event of turn.events()) {
            const sent = sendEvent(sink, event);
            if (sent) await sent;
          }
          await sink.send({ event: 'done', data: answerOf(turn) });
        },
        stream,
      );
    },
  );

  return router;
}

type Sink = Parameters<Parameters<typeof streamEvents>[1]>[0];
type Event = ReturnType<RunningTurn['events']> extends AsyncGenerator<infer E> ? E : never;

function sendEvent(sink: Sink, event: Event): Promise<void> | undefined {
  if (event.type === 'tool_call') return sink.send({ event: 'tool_call', data: event.call });
  if (event.type === 'tool_result') return sink.send({ event: 'tool_result', data: event.result });
  const delta = event.chunk.choices[0]?.delta.content;
  return delta ? sink.send({ event: 'text', data: { delta } }) : undefined;
}

function answerOf(turn: RunningTurn): ChatAnswer {
  return {
    message: turn.reply,
    agent: turn.agent,
    conversation_id: turn.conversationId ?? '',
    turn_id: turn.turnId,
    finish_reason: turn.finishReason,
    usage: turn.usage,
  };
}
