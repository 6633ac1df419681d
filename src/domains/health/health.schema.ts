import { z } from '@hono/zod-openapi';

const Part = z.object({ status: z.enum(['ok', 'unavailable']), detail: z.string() });

export const ReadyAnswer = z
  .object({
    status: z.enum(['ready', 'degraded', 'unavailable']),
    parts: z.object({ database: Part, vault: Part, engine: Part, links: Part, disk: Part }),
  })
  .openapi('Ready');
export type ReadyAnswer = z.infer<typeof ReadyAnswer>;
export type Part = z.infer<typeof Part>;

export const SystemAnswer = z
  .object({
    users: z.number().int(),
    agents: z.number().int(),
    deployments: z.record(z.string(), z.number().int()).openapi({ description: 'By state.' }),
    instances: z.number().int(),
    turns_running: z.number().int(),
    reconcile_overdue_s: z
      .number()
      .openapi({ description: 'For how long the deployment that waits longest has been due, and nobody works on it.' }),
    processes: z.number().int().openapi({ description: 'Berth processes on this database.' }),
    audit: z.object({ unsealed: z.number().int(), oldest_unsealed_s: z.number() }),
    process: z
      .object({
        uptime_s: z.number().int(),
        resident_bytes: z.number().int(),
        heap_bytes: z.number().int(),
        cpu_s: z.number(),
        links: z.number().int(),
      })
      .openapi({ description: 'Of the process that answers.' }),
  })
  .openapi('System');
export type SystemAnswer = z.infer<typeof SystemAnswer>;

export const MonitoringAnswer = ReadyAnswer.extend({ figures: SystemAnswer.nullable() }).openapi('Monitoring');
