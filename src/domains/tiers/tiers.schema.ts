import { z } from '@hono/zod-openapi';

export const TierName = z
  .string()
  .regex(/^[a-z0-9][a-z0-9-]{0,31}$/, 'must be 1 to 32 of a-z, 0-9 and -, such as free, pro or business')
  .openapi({ example: 'free' });

export const TierAnswer = z
  .object({
    name: TierName,
    limits: z.object({
      agents: z.number().int(),
      memory_mib: z.number().int().openapi({ description: 'Memory of each container.' }),
      cpu_millis: z.number().int().openapi({ description: 'Thousandths of a core for each container.' }),
      pids: z.number().int(),
      disk_mib: z.number().int(),
      requests_per_minute: z.number().int(),
      tokens_per_month: z.number().int().nullable(),
      idle_timeout_s: z.number().int().nullable(),
      log_days: z.number().int().openapi({ description: 'How long what containers print is kept.' }),
      log_mib: z.number().int().openapi({ description: 'How much of it is kept.' }),
    }),
  })
  .openapi('Tier');
export type TierAnswer = z.infer<typeof TierAnswer>;
