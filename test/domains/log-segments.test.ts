import { mkdtemp, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { decodeLogCursor, encodeLogCursor } from '../../src/domains/logs/cursor.js';
import { decodeRecord, encodeRecord, type ShownRecord, type StoredGap, type StoredLine } from '../../src/domains/logs/record.js';
import { Matcher, type Position, scanBack, scanOn, type Segment, type Wanted } from '../../src/domains/logs/scan.js';
import { recoverSegment, segmentPath, SegmentWriter } from '../../src/domains/logs/segment-file.js';

const userId = 'usr_01m00000000000000000000000';
let dir: string;
beforeAll(async () => void (dir = await mkdtemp(join(tmpdir(), 'bl-'))));
afterAll(() => rm(dir, { recursive: true, force: true }));

const signal = new AbortController().signal;
const line = (n: number, more: Partial<StoredLine> = {}): StoredLine => ({
  kind: 'line',
  time: new Date(Date.UTC(2026, 10, 22) + n * 1_000).toISOString(),
  stream: n % 2 ? 'stderr' : 'stdout',
  level: 'info',
  agent: null,
  deployment_id: 'dep_1',
  generation: 1,
  message: `line ${n}`,
  ...more,
});
const gap = (n: number): StoredGap => {
  const { time, deployment_id, generation } = line(n);
  return { kind: 'gap', time, until: time, deployment_id, generation, lines: 7, bytes: 70, reason: 'too fast', mark: [time, 1] };
};
const textOf = (records: ShownRecord[]) => records.map((record) => (record.kind === 'line' ? record.message : 'gap'));

/** Segments of these records, all but the last one sealed. */
async function write(...contents: ShownRecord[][]): Promise<Segment[]> {
  await rm(join(dir, userId), { recursive: true, force: true });
  const segments: Segment[] = [];
  for (const [at, records] of contents.entries()) {
    const writer = await SegmentWriter.create(dir, userId, at + 1);
    await writer.append(Buffer.from(records.map(encodeRecord).join('')));
    await writer.close();
    const isLast = at === contents.length - 1;
    const times = records.map(({ time }) => Date.parse(time));
    segments.push({
      number: at + 1,
      bytes: isLast ? null : writer.bytes,
      isEmpty: records.length === 0,
      fromMs: isLast ? null : Math.min(...times),
      toMs: isLast ? null : Math.max(...times),
    });
  }
  return segments;
}

const back = (segments: Segment[], wanted: Wanted = {}, records = 1_000, before?: Position, bytes = Infinity) =>
  scanBack({ dir, userId }, segments, before, new Matcher(wanted), { records, bytes, ms: 60_000 }, signal);
const on = (segments: Segment[], after: Position, wanted: Wanted = {}, records = 1_000) =>
  scanOn({ dir, userId }, segments, after, new Matcher(wanted), { records, bytes: Infinity, ms: 60_000 }, signal);

describe('a record', () => {
  test.each<[string, string]>([
    ['quotes and backslashes', '"\\ {"gap":{"lines":9}} ["x"]'],
    ['what looks like records', '"]\n{"gap":{}}\n["2026'],
    ['control characters', '\u0000\u001b[2J\r\u2028'],
    ['half a character', '\ud800 and \udc00'],
    ['characters of all lengths', 'aé漢😀'],
    ['nothing', ''],
  ])('of a message with %s is one line, and comes back as it was', (_, message) => {
    const text = encodeRecord(line(1, { message, agent: message, level: message }));
    expect(text.indexOf('\n')).toBe(text.length - 1);
    // As bytes of a file, halves of characters are what a decoder makes of them, already when they are printed.
    expect(decodeRecord(Buffer.from(text).toString('utf8').trimEnd())).toEqual(
      line(1, { message, agent: message, level: message }),
    );
  });

  test('that is none is passed over', () => {
    for (const text of ['', '[', '{"gap', 'null', '\u0000\u0000', '{}']) expect(decodeRecord(text)).toBeUndefined();
  });
});

describe('a segment that a killed process left', () => {
  test('torn at any byte of its last record: that one goes, the others stay, and the marks say so', async () => {
    await write([line(1), line(2, { message: 'é漢😀' }), gap(3), line(4, { message: 'the last "one" é' })]);
    const path = segmentPath(dir, userId, 1);
    const whole = await readFile(path);
    const last = whole.lastIndexOf('\n', whole.length - 2) + 1;
    for (let size = last; size <= whole.length; size++) {
      await writeFile(path, whole.subarray(0, size));
      const recovered = await recoverSegment(path);
      const isWhole = size === whole.length;
      expect([size, recovered?.lines, recovered?.bytes]).toEqual([size, isWhole ? 3 : 2, isWhole ? size : last]);
      expect(recovered?.marks.get('dep_1/1')).toEqual([line(isWhole ? 4 : 3).time, 1]);
      expect((await stat(path)).size).toBe(recovered?.bytes);
    }
  });

  test('with nothing whole in it, or with zeros at its end, is read as far as it goes', async () => {
    const [segment] = await write([line(1), line(2)]);
    const path = segmentPath(dir, userId, 1);
    const whole = await readFile(path);
    await writeFile(path, Buffer.concat([whole, Buffer.alloc(5_000)]));
    expect(await recoverSegment(path)).toMatchObject({ lines: 2, bytes: whole.length });
    await writeFile(path, Buffer.concat([whole, Buffer.from('\u0000\u0000{]\n'), Buffer.from(encodeRecord(line(3)))]));
    expect(textOf((await back([segment!])).found.map(({ record }) => record))).toEqual(['line 1', 'line 2', 'line 3']);
    await truncate(path, 3);
    expect(await recoverSegment(path)).toMatchObject({ lines: 0, bytes: 0 });
    expect(await recoverSegment(`${path}.none`)).toBeUndefined();
  });

  test('is nobody’s to read but Berth’s', async () => {
    await write([line(1)]);
    const path = segmentPath(dir, userId, 1);
    expect([(await stat(path)).mode & 0o777, (await stat(dirname(path))).mode & 0o777]).toEqual([0o600, 0o700]);
    expect(() => segmentPath(dir, '../x', 1)).toThrow('not the id of a user');
  });
});

describe('looking back', () => {
  let segments: Segment[];
  beforeEach(async () => {
    const range = (from: number, to: number) => Array.from({ length: to - from }, (_, n) => line(from + n));
    segments = await write(range(0, 300), range(300, 302), [], range(302, 700));
  });

  test('page after page gives every line once, from the last to the first', async () => {
    const seen: string[] = [];
    let before: Position | undefined;
    for (;;) {
      const { found, rest } = await back(segments, {}, 97, before);
      seen.unshift(...textOf(found.map(({ record }) => record)));
      if (!rest) break;
      before = rest;
    }
    expect(seen).toEqual(Array.from({ length: 700 }, (_, n) => `line ${n}`));
  });

  test('goes no further than it may, and goes on from there', async () => {
    const seen: string[] = [];
    let before: Position | undefined;
    let pages = 0;
    do {
      const { found, rest } = await back(segments, { q: 'LINE 1' }, 1_000, before, 1);
      seen.unshift(...textOf(found.map(({ record }) => record)));
      before = rest;
      pages++;
    } while (before);
    expect(pages).toBeGreaterThan(2);
    expect(seen).toHaveLength(111);
  });

  test.each<[string, Wanted, number[]]>([
    ['a text, in any case', { q: 'LiNe 69' }, [69, 690, 691, 692, 693, 694, 695, 696, 697, 698, 699]],
    ['a stream', { q: 'line 69', stream: 'stderr' }, [69, 691, 693, 695, 697, 699]],
    ['times', { sinceMs: Date.parse(line(299).time), untilMs: Date.parse(line(303).time) }, [299, 300, 301, 302, 303]],
    ['a level there is not', { levels: ['warn'] }, []],
    ['a level, in any case', { levels: ['error', 'INFO'], q: 'line 0' }, [0]],
    ['another deployment', { deploymentId: 'dep_2' }, []],
    ['an agent', { agent: 'a' }, []],
    [
      'an agent, or nobody',
      { agent: 'a', orNobodys: true, q: 'line 33' },
      [33, 330, 331, 332, 333, 334, 335, 336, 337, 338, 339],
    ],
  ])('for %s', async (_, wanted, expected) => {
    const { found, rest } = await back(segments, wanted);
    expect(rest).toBeUndefined();
    expect(textOf(found.map(({ record }) => record))).toEqual(expected.map((n) => `line ${n}`));
  });

  test('of a sealed segment reads no byte beyond its row, and says where a file is missing', async () => {
    const path = segmentPath(dir, userId, 1);
    await writeFile(
      path,
      Buffer.concat([await readFile(path), Buffer.from(encodeRecord(line(0, { message: 'written too late' })))]),
    );
    expect((await back(segments, { q: 'too late' })).found).toEqual([]);
    await rm(path);
    expect((await back(segments)).missing).toEqual([1]);
  });
});

test('gaps are told whatever is looked for, but not outside of its times', async () => {
  const segments = await write([line(1), gap(2), line(3)], [line(4)]);
  const looked = async (wanted: Wanted) => textOf((await back(segments, wanted)).found.map(({ record }) => record));
  expect(await looked({ q: 'nowhere' })).toEqual(['gap']);
  expect(await looked({ agent: 'a', levels: ['warn'], stream: 'stdout' })).toEqual(['gap']);
  expect(await looked({ sinceMs: Date.parse(line(3).time) })).toEqual(['line 3', 'line 4']);
});

test('what a tenant prints cannot be taken for a gap, nor a search for a text with quotes miss it', async () => {
  const segments = await write([line(1, { message: '{"gap":{"lines":9}} say "ÄÖ"\t\u001b' })]);
  const { found } = await back(segments, { q: '"äö"\t\u001b' });
  expect(found.map(({ record }) => record.kind)).toEqual(['line']);
});

test('looking on from a place gives what comes after it, also from the middle of a record and from a segment that is gone', async () => {
  const segments = await write([line(1), line(2)], [line(3)], [line(4), line(5)]);
  const { found } = await back(segments);
  for (const [at, { next }] of found.entries()) {
    const rest = await on(segments, next);
    expect(textOf(rest.found.map(({ record }) => record))).toEqual([1, 2, 3, 4, 5].slice(at + 1).map((n) => `line ${n}`));
    expect(rest.isDone).toBe(true);
    // Nothing new from where it ended.
    expect((await on(segments, rest.end)).found).toEqual([]);
  }
  expect(textOf((await on(segments, { segment: 1, offset: 5 })).found.map(({ record }) => record))[0]).toBe('line 2');
  expect((await on(segments, { segment: 99, offset: 5 })).found).toEqual([]);
  expect(textOf((await on(segments.slice(1), { segment: 1, offset: 0 })).found.map(({ record }) => record))[0]).toBe('line 3');
  const short = await on(segments, { segment: 0, offset: 0 }, {}, 2);
  expect([short.found.length, short.isDone, short.end]).toEqual([2, false, short.found[1]!.next]);
});

test('a cursor is what was given out, or refused naming the field', () => {
  const cursor = { to: 'older' as const, place: { segment: 12, offset: 345 } };
  expect(decodeLogCursor(encodeLogCursor(cursor))).toEqual(cursor);
  for (const text of ['', 'x', Buffer.from('n1').toString('base64url'), Buffer.from('n-1.2').toString('base64url')]) {
    expect(() => decodeLogCursor(text)).toThrow(
      expect.objectContaining({ code: 'invalid_request', fields: [expect.objectContaining({ path: 'cursor' })] }),
    );
  }
});
