import { z } from '@hono/zod-openapi';
import { NetworkPolicy, NetworkWish } from '../deployments/deployments.schema.js';
import { ResourceName } from './names.js';

export const Model = z
  .string()
  .max(200, 'must have at most 200 characters')
  .regex(/^[a-z0-9_-]+\/[^\s\u0000-\u001f\u007f-\u009f]+$/, 'must be provider/model, such as demo/echo')
  .openapi({ example: 'demo/echo', description: '`provider/model`. Unset: the default of the installation.' });

const freeText = (limit: number) =>
  z
    .string()
    .max(limit, `must have at most ${limit} characters`)
    .refine((text) => !text.includes('\0'), 'must not contain NUL');

export const CreateAgent = z
  .strictObject({
    name: ResourceName,
    description: freeText(1_000).optional(),
    model: Model.optional(),
    instructions: freeText(20_000).optional().openapi({ description: 'Text added to the system prompt.' }),
    isolation: z.enum(['shared', 'dedicated'], { error: 'must be shared or dedicated' }).optional(),
    network: NetworkWish.optional(),
  })
  .openapi('CreateAgent');
export type CreateAgent = z.infer<typeof CreateAgent>;

const MANY = 100;

/** One agent, an array of them, or `{"agents": […]}`. */
export const CreateAgents = z
  .union(
    [
      CreateAgent,
      z.array(CreateAgent).min(1, 'must hold at least one agent').max(MANY, `must hold at most ${MANY} agents`),
      z.strictObject({
        agents: z.array(CreateAgent).min(1, 'must hold at least one agent').max(MANY, `must hold at most ${MANY} agents`),
      }),
    ],
    { error: 'must be an agent, an array of agents, or {"agents": […]}' },
  )
  .openapi('CreateAgents');

export const UpdateAgent = z
  .strictObject({
    description: freeText(1_000).nullable().optional(),
    model: Model.optional(),
    instructions: freeText(20_000).nullable().optional(),
  })
  .openapi('UpdateAgent');
export type UpdateAgent = z.infer<typeof UpdateAgent>;

export const AgentAnswer = z
  .object({
    id: z.string(),
    name: z.string(),
    user_id: z.string(),
    description: z.string().nullable(),
    model: z.string(),
    instructions: z.string().nullable(),
    isolation: z.enum(['shared', 'dedicated']),
    isolation_reason: z
      .string()
      .nullable()
      .openapi({ description: 'Why it has a container of its own though that was not asked for.' }),
    network: NetworkPolicy,
    deployment_id: z.string(),
    status: z.enum(['pending', 'deploying', 'ready', 'asleep', 'stopped', 'moving', 'restoring', 'failing', 'deleting']).openapi({
      description:
        '`stopped`: by its user; `moving`: its files are on their way to a container of its own; `restoring`: its state is being put in place.',
    }),
    version: z.number().int(),
    created_at: z.string(),
    updated_at: z.string(),
  })
  .openapi('Agent');
export type AgentAnswer = z.infer<typeof AgentAnswer>;

export const NewAgentAnswer = AgentAnswer.extend({
  api_key: z.string().openapi({ description: "The agent's own key. Shown this once: Berth keeps only a digest." }),
}).openapi('NewAgent');
export type NewAgentAnswer = z.infer<typeof NewAgentAnswer>;

export const PingAnswer = z.object({ agent: z.string(), status: z.literal('online'), latency_ms: z.number() }).openapi('Ping');

export const ConnectAnswer = z
  .object({
    base_url: z.string().openapi({ description: 'For any OpenAI client.' }),
    model: z.string().openapi({ example: 'berth/manager' }),
    auth: z.object({ type: z.literal('bearer'), header: z.string(), how: z.string() }),
    endpoints: z.object({ chat_completions: z.string(), models: z.string(), chat: z.string(), chat_stream: z.string() }),
    curl: z.string(),
  })
  .openapi('Connect');
export type ConnectAnswer = z.infer<typeof ConnectAnswer>;
