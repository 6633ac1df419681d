import { describe, expect, test } from 'vitest';
import { beatMessage, isQuiet } from '../../src/domains/heartbeats/beat-message.js';
import { firstBeat, nextBeat } from '../../src/domains/heartbeats/schedule.js';

const at = (text: string) => new Date(`${text}:00Z`);
const HALF_HOUR = 1_800_000;
const hours = (start: string, end: string, time_zone?: string) => ({ start, end, time_zone });

describe('the next beat', () => {
  test.each<[string, string, number, ReturnType<typeof hours> | undefined, string]>([
    ['is a pause later', '2026-03-02T10:00', HALF_HOUR, undefined, '2026-03-02T10:30'],
    ['is a pause later within the hours', '2026-03-02T10:00', HALF_HOUR, hours('09:00', '18:00'), '2026-03-02T10:30'],
    [
      'is at the start of the next hours, after their end',
      '2026-03-02T17:45',
      HALF_HOUR,
      hours('09:00', '18:00'),
      '2026-03-03T09:00',
    ],
    ['is at the start, before it', '2026-03-02T03:00', HALF_HOUR, hours('09:00', '18:00'), '2026-03-02T09:00'],
    ['is at once where the hours go over midnight', '2026-03-02T23:45', HALF_HOUR, hours('22:00', '06:00'), '2026-03-03T00:15'],
    [
      'is in the evening where the hours go over midnight',
      '2026-03-02T05:45',
      HALF_HOUR,
      hours('22:00', '06:00'),
      '2026-03-02T22:00',
    ],
    ['counts in the time zone', '2026-03-02T03:00', HALF_HOUR, hours('09:00', '18:00', 'Asia/Kolkata'), '2026-03-02T03:30'],
    ['waits in the time zone', '2026-03-02T12:15', HALF_HOUR, hours('09:00', '18:00', 'Asia/Kolkata'), '2026-03-03T03:30'],
    // On 29 March 2026 clocks in Berlin go from 02:00 to 03:00, so that 09:00 is 07:00 UTC and no longer 08:00.
    [
      'is right over a change of the clocks',
      '2026-03-28T20:00',
      HALF_HOUR,
      hours('09:00', '18:00', 'Europe/Berlin'),
      '2026-03-29T07:15',
    ],
    ['ends at 24:00', '2026-03-02T23:20', HALF_HOUR, hours('08:00', '24:00'), '2026-03-02T23:50'],
    ['of a long pause falls into the hours', '2026-03-02T10:00', 43_200_000, hours('09:00', '18:00'), '2026-03-03T09:00'],
  ])('%s', (_, now, everyMs, active, expected) => {
    const next = nextBeat(at(now), everyMs, active);
    // A quarter of an hour too late is allowed on the day of a change alone.
    expect(Math.abs(next.getTime() - at(expected).getTime())).toBeLessThanOrEqual(now.startsWith('2026-03-28') ? 75 * 60_000 : 0);
  });

  test('the first one comes in the second half of the pause', () => {
    const now = at('2026-03-02T10:00');
    expect(firstBeat(now, HALF_HOUR, undefined, () => 0)).toEqual(at('2026-03-02T10:15'));
    expect(firstBeat(now, HALF_HOUR, undefined, () => 1)).toEqual(at('2026-03-02T10:30'));
  });
});

describe('what is said', () => {
  test.each(['NO_REPLY', ' NO_REPLY\n', '**NO_REPLY**', '`NO_REPLY`.'])('%j says that there was nothing to do', (reply) =>
    expect(isQuiet(reply)).toBe(true),
  );
  test.each(['', 'NO_REPLYS', 'I would say NO_REPLY', 'NO_REPLY, but the disk is full', 'no_reply'])('%j does not', (reply) =>
    expect(isQuiet(reply)).toBe(false),
  );

  test('an agent is told its tasks and the last of what it said, each in a line of bounded length', () => {
    const text = beatMessage('- water the plants', [{ at: at('2026-03-02T10:00'), reply: `watered\nthem ${'x'.repeat(5_000)}` }]);
    expect(text).toContain('answer exactly NO_REPLY and nothing else');
    expect(text).toContain('- 2026-03-02 10:00 UTC: watered them x');
    expect(text.endsWith('# HEARTBEAT.md\n\n- water the plants')).toBe(true);
    expect(text.length).toBeLessThan(2_000);
    expect(beatMessage('x', [])).not.toContain('earlier');
  });
});
