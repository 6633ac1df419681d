import { z } from '@hono/zod-openapi';

export const MAX_TAIL = 5_000;

const Since = z
  .string()
  .max(64)
  .refine(
    (text) => sinceMs(text) !== undefined,
    'must be RFC 3339 (2026-11-21T10:00:00Z), Unix seconds, or a time ago such as 90s, 10m, 2h or 1d',
  );

const TAIL = `must be a whole number from 0 to ${MAX_TAIL}`;

export const LogsQuery = z
  .object({
    tail: z
      .string()
      .regex(/^\d{1,9}$/, TAIL)
      .transform(Number)
      .refine((tail) => tail <= MAX_TAIL, TAIL)
      .optional()
      .openapi({ description: 'Lines from the end; 100 unless told.' }),
    since: Since.optional().openapi({ description: 'RFC 3339, Unix seconds, or a time ago: 90s, 10m, 2h, 1d.' }),
    agent: z.string().max(64).optional().openapi({ description: 'Only what concerns this agent.' }),
    stream: z.enum(['stdout', 'stderr'], { error: 'must be stdout or stderr' }).optional(),
    follow: z.enum(['true', 'false'], { error: 'must be true or false' }).optional(),
    format: z.enum(['json', 'text'], { error: 'must be json or text' }).optional(),
  })
  .refine(({ follow, format }) => follow !== 'true' || format !== 'text', {
    path: ['format'],
    error: 'must be json with follow=true: a stream is of events',
  });

export const LogLine = z
  .object({
    time: z.string(),
    stream: z.enum(['stdout', 'stderr']),
    level: z.string().nullable(),
    agent: z.string().nullable(),
    deployment_id: z.string(),
    message: z.string(),
  })
  .openapi('LogLine');
export type LogLine = z.infer<typeof LogLine>;

const UNIT_MS: Record<string, number> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Milliseconds since the epoch that a `since` names, or undefined when it names none. */
export function sinceMs(text: string, nowMs: number = Date.now()): number | undefined {
  const ago = /^(\d{1,9})([smhd])$/.exec(text);
  if (ago) return nowMs - Number(ago[1]) * (UNIT_MS[ago[2] ?? 's'] ?? 0);
  if (/^\d{1,12}(\.\d{1,9})?$/.test(text)) return Number(text) * 1_000;
  if (!/^\d{4}-\d\d-\d\dT\d\d:\d\d/.test(text)) return undefined;
  const ms = Date.parse(text);
  return Number.isNaN(ms) ? undefined : ms;
}
