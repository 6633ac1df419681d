import { z } from '@hono/zod-openapi';

const MINUTE_MS = 60_000;
const UNITS = { m: MINUTE_MS, h: 60 * MINUTE_MS, d: 24 * 60 * MINUTE_MS };
const MOST_MS = 7 * UNITS.d;
const EVERY = /^(?:(\d{1,3})d)?(?:(\d{1,4})h)?(?:(\d{1,5})m)?$/;

/** How often an agent is woken that does not say. */
export const HEARTBEAT_EVERY = '30m';

const Every = z
  .string()
  .refine((text) => everyMs(text) !== undefined, 'must be a time such as 30m, 2h or 1h30m, of at most 7 days; 0m turns it off')
  .openapi({ example: '30m', description: 'How often the agent is woken; `0m` turns it off.' });

const Start = z
  .string()
  .regex(/^(?:[01]\d|2[0-3]):[0-5]\d$/, 'must be a time of day from 00:00 to 23:59')
  .openapi({ example: '09:00' });

/** The end of a day is no time that a span can begin at. */
const End = z
  .string()
  .regex(/^(?:[01]\d|2[0-3]):[0-5]\d$|^24:00$/, 'must be a time of day from 00:00 to 24:00')
  .openapi({ example: '18:00' });

const TimeZone = z
  .string()
  .max(64)
  .refine(isTimeZone, 'must be the name of a time zone, such as Europe/Berlin')
  .openapi({ example: 'Europe/Berlin', description: 'UTC unless told.' });

export const HEARTBEAT_FIELDS = { every: Every };
export const ACTIVE_HOURS_FIELDS = { start: Start, end: End, time_zone: TimeZone };

export const ActiveHours = z
  .strictObject({ start: Start, end: End, time_zone: TimeZone.optional() })
  .refine(({ start, end }) => start !== end, { path: ['end'], message: 'must differ from start' })
  .openapi({ description: 'When the agent is woken. An end before the start is that of the next day.' });
export type ActiveHours = z.infer<typeof ActiveHours>;

export const Heartbeat = z.strictObject({ every: Every.optional(), active_hours: ActiveHours.optional() });
export type Heartbeat = z.infer<typeof Heartbeat>;

/** Milliseconds between two beats, 0 for never; undefined where the text says no such time. */
export function everyMs(text: string): number | undefined {
  const match = EVERY.exec(text);
  if (!match || text === '') return undefined;
  const [, days = '0', hours = '0', minutes = '0'] = match;
  const ms = Number(days) * UNITS.d + Number(hours) * UNITS.h + Number(minutes) * UNITS.m;
  return ms <= MOST_MS ? ms : undefined;
}

/** Whether that moment lies within the hours; true where there are none. */
export function isActiveAt(hours: ActiveHours | undefined, at: Date): boolean {
  if (!hours) return true;
  const now = new Intl.DateTimeFormat('en-GB', {
    timeZone: hours.time_zone ?? 'UTC',
    hour: '2-digit',
    minute: '2-digit',
    hourCycle: 'h23',
  }).format(at);
  return hours.start < hours.end ? now >= hours.start && now < hours.end : now >= hours.start || now < hours.end;
}

function isTimeZone(name: string): boolean {
  try {
    return new Intl.DateTimeFormat('en', { timeZone: name }).resolvedOptions().timeZone !== '';
  } catch (error) {
    if (error instanceof RangeError) return false;
    throw error;
  }
}
