import { z } from '@hono/zod-openapi';

export const MAX_TAIL = 5_000;

const TIME = 'must be RFC 3339 (2026-11-21T10:00:00Z), Unix seconds, or a time ago such as 90s, 10m, 2h or 1d';
const Time = z
  .string()
  .max(64)
  .refine((text) => timeMs(text) !== undefined, TIME);

const TAIL = `must be a whole number from 0 to ${MAX_TAIL}`;
const LEVELS = 'must be one or several names of levels, separated by commas, such as warn,error';

const LogsFilter = z.object({
  tail: z
    .string()
    .regex(/^\d{1,9}$/, TAIL)
    .transform(Number)
    .refine((tail) => tail <= MAX_TAIL, TAIL)
    .optional()
    .openapi({ description: 'Lines from the end, or of a page; 100 unless told.' }),
  since: Time.optional().openapi({ description: 'RFC 3339, Unix seconds, or a time ago: 90s, 10m, 2h, 1d.' }),
  until: Time.optional().openapi({ description: 'No line of a later time.' }),
  stream: z.enum(['stdout', 'stderr'], { error: 'must be stdout or stderr' }).optional(),
  level: z
    .string()
    .max(200)
    .regex(/^[^\s,]{1,100}(,[^\s,]{1,100})*$/, LEVELS)
    .transform((text) => text.split(','))
    .optional()
    .openapi({ description: 'Only lines of these levels, separated by commas.' }),
  q: z.string().min(1).max(200).optional().openapi({ description: 'Only lines whose message has this text, in any case.' }),
  cursor: z
    .string()
    .max(64)
    .regex(/^[A-Za-z0-9_-]+$/, 'must be a cursor of an earlier answer')
    .optional()
    .openapi({ description: '`next_cursor` of an answer: older lines. `newest_cursor`, or the id of an event: newer ones.' }),
  follow: z.enum(['true', 'false'], { error: 'must be true or false' }).optional(),
  format: z.enum(['json', 'text'], { error: 'must be json or text' }).optional(),
});

type Formed = Pick<z.infer<typeof LogsFilter>, 'follow' | 'format'>;
const isPossible = ({ follow, format }: Formed): boolean => follow !== 'true' || format !== 'text';
const IMPOSSIBLE = { path: ['format'], error: 'must be json with follow=true: a stream is of events' };

export const AgentLogsQuery = LogsFilter.refine(isPossible, IMPOSSIBLE);
export const LogsQuery = LogsFilter.extend({
  agent: z.string().max(64).optional().openapi({ description: 'Only what concerns this agent.' }),
}).refine(isPossible, IMPOSSIBLE);
export type LogsQuery = z.infer<typeof LogsQuery>;

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

export const LogGap = z
  .object({
    from: z.string().nullable(),
    to: z.string().nullable(),
    deployment_id: z.string().nullable(),
    lines: z.number().int().nullable().openapi({ description: 'null: nobody knows.' }),
    bytes: z.number().int().nullable(),
    reason: z.string(),
  })
  .openapi('LogGap', { description: 'Lines that are missing.' });
export type LogGap = z.infer<typeof LogGap>;

export const LogsAnswer = z
  .object({
    data: z.array(LogLine),
    gaps: z.array(LogGap).openapi({ description: 'What is missing among these lines.' }),
    waiting: z.string().nullable().openapi({ description: 'Why no newer lines come at the moment.' }),
    newest_cursor: z.string().openapi({ description: 'What comes after these lines: as `cursor`, or as Last-Event-ID.' }),
    pagination: z.object({
      next_cursor: z.string().nullable().openapi({
        description: 'Where to go on, in the direction of `cursor`: a page may be short or empty where much had to be looked at.',
      }),
      has_more: z.boolean(),
      total: z.number().int().nullable(),
    }),
  })
  .openapi('Logs');
export type LogsAnswer = z.infer<typeof LogsAnswer>;

const UNIT_MS: Record<string, number> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Milliseconds since the epoch that a `since` or `until` names, or undefined when it names none. */
export function timeMs(text: string, nowMs: number = Date.now()): number | undefined {
  const ago = /^(\d{1,9})([smhd])$/.exec(text);
  if (ago) return nowMs - Number(ago[1]) * (UNIT_MS[ago[2] ?? 's'] ?? 0);
  if (/^\d{1,12}(\.\d{1,9})?$/.test(text)) return Number(text) * 1_000;
  if (!/^\d{4}-\d\d-\d\dT\d\d:\d\d/.test(text)) return undefined;
  const ms = Date.parse(text);
  return Number.isNaN(ms) ? undefined : ms;
}
