import { z } from '@hono/zod-openapi';

const Tokens = z.object({
  calls: z.number().int(),
  failed: z.number().int().openapi({ description: 'Calls that failed or were cut off; their tokens are counted all the same.' }),
  prompt_tokens: z.number().int(),
  completion_tokens: z.number().int(),
  total_tokens: z.number().int(),
  counted_tokens: z
    .number()
    .int()
    .openapi({ description: 'Of the total, tokens that Berth counted because the provider gave no figures.' }),
});

export const UsageAnswer = z
  .object({
    month: z.string().openapi({ example: '2026-11' }),
    limit_tokens: z.number().int().nullable().openapi({ description: "The tier's tokens a month; null = no limit." }),
    totals: Tokens,
    by_agent: z.array(Tokens.extend({ agent: z.string().nullable(), agent_id: z.string().nullable() })),
    by_model: z.array(Tokens.extend({ model: z.string() })),
    by_day: z.array(Tokens.extend({ day: z.string() })),
  })
  .openapi('Usage');
export type UsageAnswer = z.infer<typeof UsageAnswer>;
export type Tokens = z.infer<typeof Tokens>;
