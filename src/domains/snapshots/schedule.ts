import { Cron } from 'croner';
import { wrongField } from '../../lib/errors.js';

/** By the clock, or every so many seconds. */
export interface Rhythm {
  cron: string | null;
  time_zone: string | null;
  every_s: number | null;
}

/** Nobody needs snapshots closer together than that, and each costs the reading of a whole workspace. */
export const LEAST_EVERY_S = 300;
const LOOKED_AHEAD = 10;

/** The first time after `now`. What was missed is not made up. */
export function nextTime(now: Date, { cron, time_zone: timeZone, every_s: everyS }: Rhythm): Date {
  if (cron === null) return new Date(now.getTime() + (everyS ?? LEAST_EVERY_S) * 1000);
  const next = cronOf(cron, timeZone).nextRun(now);
  if (!next) throw wrongField('cron', 'never comes');
  return next;
}

/** Throws `invalid_request`, with the field, where the rhythm cannot be one or is too quick. */
export function checkRhythm(now: Date, { cron, time_zone: timeZone }: Rhythm): void {
  if (cron === null) return;
  const runs = cronOf(cron, timeZone).nextRuns(LOOKED_AHEAD, now);
  if (runs.length === 0) throw wrongField('cron', 'never comes');
  const tooQuick = runs.some((run, i) => i > 0 && run.getTime() - runs[i - 1]!.getTime() < LEAST_EVERY_S * 1000);
  if (tooQuick) throw wrongField('cron', `must leave ${LEAST_EVERY_S} s from one time to the next at least`);
}

function cronOf(cron: string, timeZone: string | null): Cron {
  try {
    return new Cron(cron, { paused: true, mode: '5-part', timezone: timeZone ?? 'UTC' });
  } catch (cause) {
    throw wrongField('cron', 'must be a cron expression of five fields', cause);
  }
}
