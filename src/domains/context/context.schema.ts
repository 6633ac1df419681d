import { z } from '@hono/zod-openapi';

const Tool = z.record(z.string(), z.unknown()).openapi({ description: 'A tool in OpenAI’s words, as it is sent.' });

const Tokens = z
  .object({
    encoding: z.enum(['o200k_base', 'bytes/4']).openapi({
      description:
        'How was counted. Both are estimates: each model counts in its own way. `bytes/4` where o200k_base took too long.',
    }),
    system: z.number().int(),
    tools: z.number().int(),
    total: z.number().int(),
  })
  .openapi('ContextTokens');

export const ContextAnswer = z
  .object({
    agent: z.string(),
    agent_id: z.string(),
    model: z.string(),
    system: z.string().openapi({ description: 'The system prompt of the next turn, byte for byte.' }),
    tools: z.array(Tool),
    sampling: z.record(z.string(), z.unknown()),
    parts: z
      .array(z.object({ name: z.string(), text: z.string(), characters: z.number().int(), tokens: z.number().int() }))
      .openapi({
        description: 'Joined by an empty line, their texts are `system`; each is counted with the empty line after it.',
      }),
    tool_tokens: z.array(z.object({ name: z.string(), tokens: z.number().int() })),
    tokens: Tokens,
    hidden_skills: z
      .array(z.object({ name: z.string(), why: z.string() }))
      .openapi({ description: 'Skills that the agent has and is not shown, since what they require is not there.' }),
  })
  .openapi('AgentContext');
export type ContextAnswer = z.infer<typeof ContextAnswer>;

const Tier = z.object({ content: z.string(), tokens: z.number().int() });

export const AssembledContextAnswer = z
  .object({
    agent_id: z.string(),
    agent: z.string(),
    model: z.string(),
    temperature: z.number().nullable(),
    system_prompt: z.string().openapi({ description: 'The system prompt of the next turn, byte for byte.' }),
    persona: Tier.extend({ name: z.string(), source: z.literal('agent'), parts: z.array(z.string()) }).openapi({
      description: 'SOUL.md, IDENTITY.md and the instructions, as far as the agent has them.',
    }),
    plugins_loaded: z.array(z.string()),
    tier1: Tier.openapi({ description: 'Quick reference: each plugin in a line. Not sent as such.' }),
    tier2: Tier.openapi({
      description: 'What the plugins bring, in full: tools with their arguments, and skills. Not sent as such.',
    }),
    tools: z.array(Tool).openapi({ description: 'Every tool of the next turn, the agent’s own too.' }),
    token_estimate: z.number().int(),
    tokens: Tokens,
  })
  .openapi('AssembledContext');
export type AssembledContextAnswer = z.infer<typeof AssembledContextAnswer>;
