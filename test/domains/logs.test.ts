import { describe, expect, test } from 'vitest';
import { LastLines, lineOf, Mark } from '../../src/domains/logs/line.js';
import { sinceMs } from '../../src/domains/logs/logs.schema.js';
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
    expect((performance.now() - begun) / 5).toBeLessThan(40);
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

  test('is cut, and no key comes to light by the cut', () => {
    const { message } = lineOf(raw(`${'x'.repeat(16_370)} sk-${'a'.repeat(40)}`), 'd');
    expect(message.length).toBeLessThanOrEqual(16_384);
    expect(message).not.toContain('sk-a');
    expect(
      lineOf(raw(JSON.stringify({ msg: 'x', level: 'y'.repeat(1_000_000), agent: 'z'.repeat(1_000_000) })), 'd'),
    ).toMatchObject({ level: 'y'.repeat(100), agent: 'z'.repeat(100) });
  });
});

test('the last lines are as many as asked for, and not too much text', () => {
  const last = new LastLines(3, 100);
  for (let n = 0; n < 5_000; n++) last.add(lineOf(raw(`line ${n}`), 'd'));
  expect(last.lines.map(({ message }) => message)).toEqual(['line 4997', 'line 4998', 'line 4999']);
  last.add(lineOf(raw('y'.repeat(95)), 'd'));
  expect(last.lines).toHaveLength(1);
  const none = new LastLines(0);
  none.add(lineOf(raw('x'), 'd'));
  expect(none.lines).toEqual([]);
});

test('a mark lets every line through once, also those of one time', () => {
  const mark = new Mark();
  const lines = ['1', '1', '2', '2', '2'].map((time, n) => raw(String(n), time));
  for (const line of lines.slice(0, 3)) mark.note(line);
  const second = mark.newOnes();
  expect(lines.filter(second).map(({ text }) => text)).toEqual(['3', '4']);
  const third = mark.newOnes();
  expect(lines.filter(third)).toEqual([]);
  expect(third(raw('5', '2'))).toBe(true);
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
  expect(sinceMs(text, 1_000_000_000_000)).toBe(expected);
});
