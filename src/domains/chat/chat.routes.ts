import { z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { onceOf } from '../../http/idempotency.js';
import { json, jsonBody } from '../../http/page.js';
import type { Env } from '../../http/request-state.js';
import { callerOf, createRouter, requestIdOf, route, tenantOf } from '../../http/router.js';
import { type EventSink, streamEvents, type StreamOptions } from '../../http/sse.js';
import { actorOf } from '../../lib/caller.js';
import type { Chat, TurnWish } from './chat.js';
import { CHAT_BODY_LIMIT_BYTES, ChatAnswer, ChatRequest, StreamRequest, StreamRequestToAgent } from './chat.schema.js';
import type { RunningTurn } from './turn.js';
import { serverEventOf } from './turn-event.js';
import type { Origin } from './turn-events.js';
import type { Turns } from './turns.js';
import { lastEventIdOf, startEvent, streamTurn } from './turn-stream.routes.js';

const tags = ['Chat'];
const AgentParams = z.object({ user: z.string(), agent: z.string() });

/** The events of a stream, for its description. */
export const STREAM_EVENTS =
  'Events `start`, `waiting` (the agent is not ready yet), `text` {delta}, `tool_call`, `tool_result`, `restarted` (what came after `void_after` is void and is said again), `done`; `error` ends a failed turn, `cancelled` one that was cancelled.';

function wishOf(c: Context<Env>, body: ChatRequest): TurnWish {
  const memory = { kind: 'conversation' as const, id: body.conversation_id };
  return { messages: body.messages, memory, onBusy: body.on_busy, origin: originOf(c) };
}

/** Who makes the call, for the events of its turn. */
export function originOf(c: Context<Env>): Origin {
  return { actor: actorOf(callerOf(c)), requestId: requestIdOf(c) };
}

export interface ChatRoutesOptions {
  chat: Chat;
  turns: Turns;
  stream?: StreamOptions | undefined;
}

export function chatRoutes({ chat, turns, stream }: ChatRoutesOptions) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'post',
      path: '/users/{user}/agents/{agent}/chat',
      access: 'agent',
      waits: true,
      recordedAlongside: true,
      seesToOnce: true,
      tags,
      summary: 'Send messages and get the answer',
      bodyLimitBytes: CHAT_BODY_LIMIT_BYTES,
      request: { params: AgentParams, body: jsonBody(ChatRequest) },
      responses: { 200: json("The agent's answer.", ChatAnswer) },
    }),
    async (c) => {
      const { agent } = c.req.valid('param');
      return c.json(await answerChat(c, { chat, turns, once: onceOf(c) }, agent, wishOf(c, c.req.valid('json'))), 200);
    },
  );

  router.openapi(
    route({
      method: 'post',
      path: '/users/{user}/agents/{agent}/chat/stream',
      access: 'agent',
      waits: true,
      recordedAlongside: true,
      seesToOnce: true,
      tags,
      summary: 'Send messages and get the answer as it is written (SSE)',
      bodyLimitBytes: CHAT_BODY_LIMIT_BYTES,
      request: { params: AgentParams, body: jsonBody(StreamRequest) },
      responses: {
        200: { description: STREAM_EVENTS, content: { 'text/event-stream': { schema: z.string() } } },
        204: { description: 'The turn has ended, and `Last-Event-ID` is its last event.' },
      },
    }),
    async (c) => streamChat(c, { chat, turns, stream }, c.req.valid('param').agent, c.req.valid('json')),
  );

  router.openapi(
    route({
      method: 'post',
      path: '/users/{user}/chat',
      access: 'user',
      waits: true,
      seesToOnce: true,
      tags,
      summary: 'Send messages to an agent that the body names, and get the answer as it is written (SSE)',
      bodyLimitBytes: CHAT_BODY_LIMIT_BYTES,
      request: { params: z.object({ user: z.string() }), body: jsonBody(StreamRequestToAgent) },
      responses: {
        200: { description: STREAM_EVENTS, content: { 'text/event-stream': { schema: z.string() } } },
        204: { description: 'The turn has ended, and `Last-Event-ID` is its last event.' },
      },
    }),
    async (c) => {
      const { agent, ...request } = c.req.valid('json');
      return streamChat(c, { chat, turns, stream }, agent, request);
    },
  );

  return router;
}

/** A stream: of a new turn, or the rest of one that can be resumed. */
async function streamChat(
  c: Context<Env>,
  { chat, turns, stream }: ChatRoutesOptions,
  agent: string,
  { resumable = false, ...body }: StreamRequest,
): Promise<Response> {
  const seen = resumable ? lastEventIdOf(c) : undefined;
  if (seen) return streamTurn(c, turns, { row: await turns.find(tenantOf(c), agent, seen.turnId) }, seen, stream);
  const prepare = () => chat.prepare(tenantOf(c), agent, wishOf(c, body));
  const once = onceOf(c);
  if (!resumable && !once) return streamPlain(c, chat, await prepare(), stream);
  return streamTurn(c, turns, await turns.begin(tenantOf(c), { prepare, resumable, once }), undefined, stream);
}

/** The answer in one piece of the turn that this request begins; or began, when it came before with the same `Idempotency-Key`. */
export async function answerChat(
  c: Context<Env>,
  { chat, turns, once }: { chat: Chat; turns: Turns; once: ReturnType<typeof onceOf> },
  agent: string,
  wish: TurnWish,
): Promise<ChatAnswer> {
  const prepare = () => chat.prepare(tenantOf(c), agent, wish);
  if (!once) {
    const turn = await chat.begin(await prepare(), c.req.raw.signal);
    await turn.finish();
    return answerOf(turn);
  }
  const joined = await turns.begin(tenantOf(c), { prepare, once, resumable: false });
  if (joined.row) c.env.berth.setHeader('Idempotency-Replayed', 'true');
  const { answer, error } = await turns.outcome(joined, c.req.raw.signal);
  if (error) throw error;
  return answer;
}

/** A turn that ends with its stream. */
function streamPlain(
  c: Context<Env>,
  chat: Chat,
  prepared: Awaited<ReturnType<Chat['prepare']>>,
  options?: StreamOptions,
): Promise<Response> {
  const produce = async (sink: EventSink) => {
    await sink.send(startEvent(prepared));
    const turn = await chat.begin(prepared, sink.signal, (reason) => sink.send({ event: 'waiting', data: { reason } }));
    for await (const event of turn.events()) {
      const shown = serverEventOf(event);
      const room = shown && sink.send(shown);
      if (room) await room;
    }
    await sink.send({ event: 'done', data: answerOf(turn) });
  };
  return streamEvents(c, produce, options);
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
