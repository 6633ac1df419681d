import { z } from '@hono/zod-openapi';
import { pageAnswer } from '../../http/page.js';

export const BeatAnswer = z
  .object({
    id: z.string(),
    agent_id: z.string(),
    origin: z.enum(['schedule', 'manual']),
    status: z.enum(['running', 'quiet', 'replied', 'failed', 'skipped', 'lost']).openapi({
      description: '`quiet`: there was nothing to do. `skipped`: no model was asked. `lost`: the process that ran it died.',
    }),
    reason: z.string().nullable().openapi({ description: 'Why it failed, or was skipped.' }),
    reply: z.string().nullable(),
    turn_id: z.string().nullable(),
    usage: z
      .object({ prompt_tokens: z.number().int(), completion_tokens: z.number().int(), total_tokens: z.number().int() })
      .nullable(),
    started_at: z.string(),
    ended_at: z.string().nullable(),
  })
  .openapi('Heartbeat');
export type BeatAnswer = z.infer<typeof BeatAnswer>;

export const BeatSchedule = z
  .object({
    enabled: z.boolean(),
    reason: z.string().nullable().openapi({ description: 'Why the agent is not woken.' }),
    every_s: z.number().int(),
    active_hours: z.object({ start: z.string(), end: z.string(), time_zone: z.string() }).nullable(),
    next_at: z.string().nullable().openapi({ description: 'A change of the schedule is here within some seconds.' }),
  })
  .openapi('HeartbeatSchedule');
export type BeatSchedule = z.infer<typeof BeatSchedule>;

export const BeatsAnswer = pageAnswer(BeatAnswer).extend({ schedule: BeatSchedule }).openapi('Heartbeats');
export type BeatsAnswer = z.infer<typeof BeatsAnswer>;
