import { z } from '@hono/zod-openapi';

/** Largest body of a chat request: long histories and pictures. */
export const CHAT_BODY_LIMIT_BYTES = 8_000_000;

const TextPart = z.looseObject({ type: z.literal('text'), text: z.string() });
const ImagePart = z.looseObject({ type: z.literal('image_url'), image_url: z.looseObject({ url: z.string() }) });

const Message = z
  .looseObject({
    role: z.enum(['system', 'developer', 'user', 'assistant'], { error: 'must be system, developer, user or assistant' }),
    content: z.union([z.string(), z.array(z.union([TextPart, ImagePart]))], {
      error: 'must be a text, or an array of text and image_url parts',
    }),
  })
  .openapi('ChatMessage');

/** What a caller says, and what was said before if it likes. */
export const Messages = z
  .array(Message)
  .min(1, 'must hold at least one message')
  .max(2_000, 'must hold at most 2000 messages')
  .refine(
    (messages) => messages.findLast(({ role }) => role === 'user' || role === 'assistant')?.role === 'user',
    'must end with a message of the user',
  );

const OnBusy = z.enum(['queue', 'reject', 'interrupt'], { error: 'must be queue, reject or interrupt' }).openapi({
  description:
    'While another turn of the conversation runs: `queue` waits for it, in the order of arrival, 16 at most; `reject` answers 409 and names it in `Berth-Turn`; `interrupt` cancels it. Unset: as `on_busy` of the agent’s config.',
});

export const ChatRequest = z
  .strictObject({
    messages: Messages,
    conversation_id: z
      .string()
      .regex(/^cnv_[0-9a-hjkmnp-tv-z]{26}$/, 'must be a conversation_id of an earlier answer')
      .optional()
      .openapi({
        description: 'Goes on with a conversation: `messages` are its new ones. Unset: a new conversation, its id in the answer.',
      }),
    on_busy: OnBusy.optional(),
  })
  .openapi('ChatRequest');
export type ChatRequest = z.infer<typeof ChatRequest>;

export const StreamRequest = ChatRequest.extend({
  resumable: z.boolean().optional().openapi({
    description:
      'The turn goes on when the stream is cut, by the network or with the Berth process: its events have ids, and `GET …/turns/{turn}/stream`, or this call again, with `Last-Event-ID` goes on after that event.',
  }),
}).openapi('ChatStreamRequest');
export type StreamRequest = z.infer<typeof StreamRequest>;

export const StreamRequestToAgent = StreamRequest.extend({ agent: z.string().min(1).max(64) }).openapi(
  'ChatStreamRequestToAgent',
);

export const TurnUsage = z.object({
  prompt_tokens: z.number().int(),
  completion_tokens: z.number().int(),
  total_tokens: z.number().int(),
});
export type TurnUsage = z.infer<typeof TurnUsage>;

export const ChatAnswer = z
  .object({
    message: z.string(),
    agent: z.string(),
    conversation_id: z.string(),
    turn_id: z.string(),
    finish_reason: z.string(),
    usage: TurnUsage,
  })
  .openapi('ChatAnswer');
export type ChatAnswer = z.infer<typeof ChatAnswer>;

const range = (min: number, max: number) =>
  z.number().min(min, `must be from ${min} to ${max}`).max(max, `must be from ${min} to ${max}`).nullable().optional();
const count = z.number().int('must be a whole number').min(1, 'must be at least 1').nullable().optional();

/** OpenAI's chat completions, the fields that an agent honours (https://platform.openai.com/docs/api-reference/chat/create). */
export const CompletionRequest = z
  .looseObject({
    model: z.string().max(200).openapi({ example: 'berth/manager' }),
    messages: Messages,
    stream: z.boolean().nullable().optional(),
    stream_options: z.looseObject({ include_usage: z.boolean().optional() }).nullable().optional(),
    user: z.string().max(256, 'must have at most 256 characters').optional(),
    on_busy: OnBusy.nullable().optional(),
    n: z.literal(1, { error: 'must be 1: an agent gives one answer' }).nullable().optional(),
    temperature: range(0, 2),
    top_p: range(0, 1),
    frequency_penalty: range(-2, 2),
    presence_penalty: range(-2, 2),
    seed: z.number().int().nullable().optional(),
    stop: z
      .union([z.string(), z.array(z.string()).max(4)])
      .nullable()
      .optional(),
    max_tokens: count,
    max_completion_tokens: count,
    tools: z.array(z.unknown()).max(0, "must be empty: an agent's tools are its own").nullable().optional(),
  })
  .openapi('ChatCompletionRequest');
export type CompletionRequest = z.infer<typeof CompletionRequest>;

export const CompletionAnswer = z
  .object({
    id: z.string(),
    object: z.literal('chat.completion'),
    created: z.number().int(),
    model: z.string(),
    choices: z.array(
      z.object({
        index: z.number().int(),
        message: z.object({ role: z.literal('assistant'), content: z.string(), refusal: z.null() }),
        logprobs: z.null(),
        finish_reason: z.string(),
      }),
    ),
    usage: TurnUsage,
  })
  .openapi('ChatCompletion');
export type CompletionAnswer = z.infer<typeof CompletionAnswer>;

export const Model = z
  .object({ id: z.string(), object: z.literal('model'), created: z.number().int(), owned_by: z.string() })
  .openapi('Model');
export type Model = z.infer<typeof Model>;
