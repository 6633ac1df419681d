import { type ActiveHours, isActiveAt } from '../configs/heartbeat.schema.js';

const MINUTE_MS = 60_000;
const DAY_MINUTES = 24 * 60;
/** All time zones are whole quarters of an hour apart, before a change of the clock and after it. */
const QUARTER_MS = 15 * MINUTE_MS;
const QUARTERS_TRIED = 12;

/** When an agent that is woken every `everyMs` is woken next, as of `now`: within its hours, if it has some. What was missed is not made up. */
export function nextBeat(now: Date, everyMs: number, hours: ActiveHours | undefined): Date {
  const next = new Date(now.getTime() + everyMs);
  return isActiveAt(hours, next) ? next : nextStart(next, hours);
}

/** The first beat of a schedule comes somewhere in the second half of its time, or all agents of an installation would beat at once. */
export function firstBeat(now: Date, everyMs: number, hours: ActiveHours | undefined, random = Math.random): Date {
  return nextBeat(now, Math.round(everyMs * (0.5 + 0.5 * random())), hours);
}

/** When the hours begin next, from a moment outside of them. */
export function nextStart(from: Date, hours: ActiveHours | undefined): Date {
  if (!hours) return from;
  const ahead = (minutesOf(hours.start) - minutesOf(clockAt(from, hours.time_zone)) + DAY_MINUTES) % DAY_MINUTES;
  let start = new Date(Math.floor(from.getTime() / MINUTE_MS) * MINUTE_MS + ahead * MINUTE_MS);
  // Where the clocks are changed between now and then, the start is elsewhere.
  for (let i = 0; i < QUARTERS_TRIED && !isActiveAt(hours, start); i++) start = new Date(start.getTime() + QUARTER_MS);
  return start;
}

function clockAt(at: Date, timeZone = 'UTC'): string {
  return new Intl.DateTimeFormat('en-GB', { timeZone, hour: '2-digit', minute: '2-digit', hourCycle: 'h23' }).format(at);
}

function minutesOf(clock: string): number {
  const [hours = 0, minutes = 0] = clock.split(':').map(Number);
  return hours * 60 + minutes;
}
