import { describe, expect, test } from 'vitest';
import { lineOf } from '../../src/domains/logs/line.js';
import { timeMs } from '../../src/domains/logs/logs.schema.js';
import { Mark, type MarkValue, Resumption } from '../../src/domains/logs/mark.js';
import { redact } from '../../src/domains/logs/redact.js';

const raw = (text: string, time = '2026-11-22T10:00:00.000Z') => ({ time, stream: 'stdout' as const, text });

describe('redaction', () => {
  test.each([
    [`key berth_usr_${'0'.repeat(26)}_${'A'.repeat(43)}!`, 'key [redacted key]!'],
    ['OPENAI_API_KEY=sk-proj-abcdefghijklmnop0123', /^OPENAI_API_KEY=\[redacted/],
    ['sk-ant-api03-abcdefghijklmnopqrstuvwxyz', '[redacted key]'],
    ['Authorization: Bearer abcdefghijklmnop.123', 'Authorization: Bearer [redacted]'],
    ['{"password":"hunter2hunter2","user":"ada"}', '{"password":"[redacted]","user":"ada"}'],
    ['{"args":"{\\"token\\":\\"abcdef123456\\"}"}', /^((?!abcdef123456).)*$/],
    ["api-key: 'abcdef123456'", "api-key: '[redacted]'"],
    ['AWS_SECRET_ACCESS_KEY=abcdefABCDEF/123', 'AWS_SECRET_ACCESS_KEY=[redacted]'],
    ['ghp_abcdefghijklmnopqrstuvwxyz0123456789', '[redacted key]'],
    ['postgres://ada:s3cret@db/x', 'postgres://ada:[redacted]@db/x'],
    ['jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc_def', 'jwt [redacted token]'],
    ['nothing to hide: 3 tokens used, see https://example.com/a', 'nothing to hide: 3 tokens used, see https://example.com/a'],
  ])('%s', (text, expected) => {
    const done = redact(text);
    if (typeof expected === 'string') expect(done).toBe(expected);
    else expect(done).toMatch(expected);
  });

  test.each([
    'eyJ-',
    'eyJaaaaaaaaa.',
    '//a:',
    '//',
    'token ',
    'token',
    'bearer ',
    'password=',
    'sk-',
    'berth_usr_',
    ' ',
    'a',
    'xoxb-',
    '"',
  ])('of a line of nothing but %j takes no time', (piece) => {
    const text = piece.repeat(Math.ceil(16_384 / piece.length));
    const begun = performance.now();
    for (let i = 0; i < 5; i++) redact(text);
    expect((performance.now() - begun) / 5).toBeLessThan(250);
  });
});

describe('a line', () => {
  test("of the gateway's is taken apart", () => {
    expect(lineOf(raw('{"time":"x","level":"info","msg":"turn ended","agent":"a","steps":2}'), 'dep_1')).toEqual({
      time: '2026-11-22T10:00:00.000Z',
      stream: 'stdout',
      level: 'info',
      agent: 'a',
      deployment_id: 'dep_1',
      message: 'turn ended {"steps":2}',
    });
  });

  test.each(['{"level":', '{"msg":7}', '[1]', 'plain', '{"__proto__":{"level":"x"}}'])(
    'of any other kind is a message as it is: %s',
    (text) => {
      expect(lineOf(raw(text), 'dep_1')).toMatchObject({ level: null, agent: null, message: text });
    },
  );

  test('that names an agent of another deployment is nobody’s, and told whole; its time is the engine’s', () => {
    const forged = JSON.stringify({ time: '1999-01-01T00:00:00Z', level: 'error', agent: 'theirs', msg: 'it was them' });
    expect(lineOf(raw(forged), 'dep_1', undefined, (agent) => agent === 'mine')).toMatchObject({
      time: '2026-11-22T10:00:00.000Z',
      level: 'error',
      agent: null,
      message: forged,
    });
  });

  test('is cut, and no key comes to light by the cut', () => {
    const { message } = lineOf(raw(`${'x'.repeat(16_370)} sk-${'a'.repeat(40)}`), 'd');
    expect(message.length).toBeLessThanOrEqual(16_384);
    expect(message).not.toContain('sk-a');
    expect(lineOf(raw('y'.repeat(1_000_000)), 'd').message).toMatch(/^y{16000,} \[cut: it has 1000000 characters\]$/);
    expect(
      lineOf(raw(JSON.stringify({ msg: 'x', level: 'y'.repeat(1_000_000), agent: 'z'.repeat(1_000_000) })), 'd'),
    ).toMatchObject({ level: 'y'.repeat(100), agent: 'z'.repeat(100) });
  });
});

describe('a second look at an instance', () => {
  const markOf = (...times: string[]): MarkValue => {
    const mark = new Mark();
    for (const time of times) mark.note(time);
    return mark.value;
  };
  const see = (mark: MarkValue, window: number, ...times: string[]) => {
    const resumption = new Resumption(mark, window);
    return times.map((time) => resumption.see(time)).join(' ');
  };

  test.each<[string, MarkValue, number, string[], string]>([
    ['after nothing: all is new', markOf(), 9, ['1', '1'], 'new new'],
    ['the same again: nothing is', markOf('1', '2'), 9, ['1', '2'], 'old old'],
    ['lines of one time are counted', markOf('1', '2', '2'), 9, ['1', '2', '2', '2', '2', '3'], 'old old old new new new'],
    ['lines of one time, some of them new', markOf('1', '2'), 9, ['2', '2'], 'old new'],
    ['a clock that was set back, after the last line', markOf('5', '6'), 9, ['5', '6', '3', '6', '4'], 'old old new new new'],
    ['the last line is gone', markOf('1', '2'), 9, ['4', '5'], 'missed new'],
    ['the last line is gone, and a clock was set back', markOf('8'), 2, ['3', '4', '5', '9'], 'old old missed new'],
  ])('%s', (_, mark, window, times, expected) => {
    expect(see(mark, window, ...times)).toBe(expected);
  });
});

test.each<[string, number | undefined]>([
  ['90s', 1_000_000_000_000 - 90_000],
  ['2h', 1_000_000_000_000 - 7_200_000],
  ['1d', 1_000_000_000_000 - 86_400_000],
  ['2026-11-21T10:00:00Z', Date.UTC(2026, 10, 21, 10)],
  ['2026-11-21T10:00:00+02:00', Date.UTC(2026, 10, 21, 8)],
  ['1700000000', 1_700_000_000_000],
  ['1700000000.5', 1_700_000_000_500],
  ['yesterday', undefined],
  ['-5m', undefined],
  ['2026-99-99T00:00:00Z', undefined],
  ['', undefined],
  ['10x', undefined],
  ['Nov 21 2026', undefined],
])('since %j', (text, expected) => {
  expect(timeMs(text, 1_000_000_000_000)).toBe(expected);
});
