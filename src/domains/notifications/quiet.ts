/** Times of a week in which nothing is to be sent. A span that ends before it begins ends on the next day. */
export interface Quiet {
  time_zone?: string | undefined;
  /** The days on which it begins; every day unless told. */
  days?: Day[] | undefined;
  /** `HH:MM`, by the clocks of the time zone. */
  from: string;
  to: string;
}

export const DAYS = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] as const;
export type Day = (typeof DAYS)[number];

const DAY_MINUTES = 24 * 60;

/** Whether that moment is quiet. */
export function isQuietAt(quiet: Quiet | null, at: Date): boolean {
  if (!quiet) return false;
  const { day, clock } = localTime(at, quiet.time_zone);
  const begins = (on: Day) => quiet.days?.includes(on) ?? true;
  if (quiet.from < quiet.to) return begins(day) && clock >= quiet.from && clock < quiet.to;
  return (begins(day) && clock >= quiet.from) || (begins(dayBefore(day)) && clock < quiet.to);
}

/**
 * How long to wait, from a quiet moment, before looking again: until the end by the clock as it goes now, and never longer than `atMostS`, so that
 * neither a change of the clock nor one of the times is slept through.
 */
export function quietLookS(quiet: Quiet, at: Date, atMostS: number): number {
  const { clock } = localTime(at, quiet.time_zone);
  const minutes = (minutesOf(quiet.to) - minutesOf(clock) + DAY_MINUTES) % DAY_MINUTES || DAY_MINUTES;
  return Math.min(Math.max(1, minutes * 60 - at.getUTCSeconds()), atMostS);
}

function localTime(at: Date, timeZone = 'UTC'): { day: Day; clock: string } {
  const format = new Intl.DateTimeFormat('en-GB', {
    timeZone,
    weekday: 'short',
    hour: '2-digit',
    minute: '2-digit',
    hourCycle: 'h23',
  });
  const parts = Object.fromEntries(format.formatToParts(at).map(({ type, value }) => [type, value]));
  const day = DAYS.find((one) => one === parts['weekday']?.toLowerCase().slice(0, 3)) ?? 'mon';
  return { day, clock: `${parts['hour']}:${parts['minute']}` };
}

function dayBefore(day: Day): Day {
  return DAYS[(DAYS.indexOf(day) + DAYS.length - 1) % DAYS.length] ?? 'mon';
}

function minutesOf(clock: string): number {
  const [hours = 0, minutes = 0] = clock.split(':').map(Number);
  return hours * 60 + minutes;
}
