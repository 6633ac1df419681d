import { z } from '@hono/zod-openapi';

const count = z.number().int();

export const BeginRollout = z
  .object({
    image: z
      .string()
      .min(1)
      .max(512)
      .openapi({ description: 'One that the operator offers: AGENT_IMAGE or one of AGENT_IMAGES.' }),
    canary: z
      .number()
      .gt(0)
      .max(1)
      .default(0.1)
      .openapi({ description: 'Share of the deployments in the first wave. Each later wave is as large as all before it.' }),
    pause_s: count
      .min(0)
      .max(86_400)
      .default(60)
      .openapi({ description: 'Seconds between a wave that is ready and the next one.' }),
    wave_timeout_s: count
      .min(1)
      .max(86_400)
      .default(600)
      .openapi({ description: 'Seconds after which a deployment of a wave that is not ready counts as failed.' }),
    least_health: z
      .number()
      .min(0)
      .max(1)
      .default(0.9)
      .openapi({ description: 'It halts and rolls back below this health score.' }),
  })
  .strict()
  .openapi('BeginRollout');
export type BeginRollout = z.infer<typeof BeginRollout>;

export const RolloutAnswer = z
  .object({
    id: z.string(),
    image: z.string(),
    canary: z.number(),
    pause_s: count,
    wave_timeout_s: count,
    least_health: z.number(),
    state: z.enum(['running', 'paused', 'done', 'halted', 'undone']).openapi({
      description: 'halted: the health score fell below least_health, and its deployments are taken back to what they had.',
    }),
    reason: z.string().nullable(),
    wave: count.openapi({ description: 'The wave in hand, from 1; 0 before the first.' }),
    waves: count,
    health: z.number().openapi({
      description:
        'Of the deployments that had their turn: the lower one of the share that did not fail and, from ten turns on, the share of turns without an error.',
    }),
    deployments: z.object({ waiting: count, rolling: count, ready: count, failed: count, gone: count, undone: count }),
    created_at: z.string(),
    ended_at: z.string().nullable(),
  })
  .openapi('Rollout');
export type RolloutAnswer = z.infer<typeof RolloutAnswer>;
