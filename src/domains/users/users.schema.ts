import { z } from '@hono/zod-openapi';
import { AgentAnswer } from '../agents/agents.schema.js';
import { ResourceName } from '../agents/names.js';
import { TierName } from '../tiers/tiers.schema.js';

export const CreateUser = z
  .strictObject({
    name: ResourceName,
    email: z.email('must be an e-mail address').max(254).optional(),
    tier: TierName.optional(),
  })
  .openapi('CreateUser');
export type CreateUser = z.infer<typeof CreateUser>;

export const ChangeTier = z.strictObject({ tier: TierName }).openapi('ChangeTier');

export const UserAnswer = z
  .object({
    id: z.string(),
    name: z.string(),
    email: z.string().nullable(),
    tier: z.string(),
    status: z.enum(['active', 'deleting']),
    version: z.number().int(),
    created_at: z.string(),
    updated_at: z.string(),
  })
  .openapi('User');
export type UserAnswer = z.infer<typeof UserAnswer>;

export const NewUserAnswer = UserAnswer.extend({
  api_key: z.string().openapi({ description: "The user's first API key. Shown this once: Berth keeps only a digest." }),
}).openapi('NewUser');

export const UserWithAgents = UserAnswer.extend({ agents: z.array(AgentAnswer) }).openapi('UserWithAgents');
