import { z } from '@hono/zod-openapi';
import { TurnUsage } from './chat.schema.js';

const Call = z.object({
  model: z.string(),
  status: z.enum(['open', 'finished', 'failed', 'cut_off']),
  attempt: z.number().int().openapi({
    description:
      '2 or more: the same call as the one before it, made again since that was lost with the Berth process that it ran through. Each is metered for itself.',
  }),
  prompt_tokens: z.number().int(),
  completion_tokens: z.number().int(),
  started_at: z.string(),
  ended_at: z.string().nullable(),
});

export const TurnAnswer = z
  .object({
    turn_id: z.string(),
    agent: z.string(),
    conversation_id: z.string().nullable(),
    status: z.enum(['running', 'finished', 'failed', 'cancelled']),
    resumable: z.boolean(),
    cancelling: z.boolean().openapi({ description: 'Whether it runs and is to end.' }),
    message: z.string().nullable().openapi({ description: 'What the agent said; null while it runs.' }),
    finish_reason: z.string().nullable(),
    error: z.object({ error: z.string(), code: z.string() }).nullable(),
    usage: TurnUsage.nullable().openapi({ description: "By the agent's word, all calls together; null where it gave none." }),
    calls: z.array(Call).openapi({ description: 'The model calls, as they were metered.' }),
    created_at: z.string(),
    ended_at: z.string().nullable(),
  })
  .openapi('Turn');
export type TurnAnswer = z.infer<typeof TurnAnswer>;
