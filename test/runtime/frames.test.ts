import { Readable } from 'node:stream';
import { describe, expect, test } from 'vitest';
import { FrameLines } from '../../src/runtime/docker/frames.js';
import { logQuery, readLines } from '../../src/runtime/docker/logs.js';
import type { LogLine } from '../../src/runtime/runtime.js';
import { all } from './harness.js';

const T1 = '2025-01-02T03:04:05.123456789Z';
const T2 = '2025-01-02T03:04:06.000000001Z';

function frame(kind: number, time: string, body: string | Buffer): Buffer {
  const payload = Buffer.concat([Buffer.from(`${time} `), Buffer.from(body)]);
  const header = Buffer.alloc(8);
  header[0] = kind;
  header.writeUInt32BE(payload.length, 4);
  return Buffer.concat([header, payload]);
}

async function decode(bytes: Buffer, chunkBytes = bytes.length, maxLineBytes?: number): Promise<LogLine[]> {
  const chunks = [];
  for (let at = 0; at < bytes.length; at += chunkBytes) chunks.push(bytes.subarray(at, at + chunkBytes));
  return ((await Readable.from(chunks).pipe(new FrameLines(maxLineBytes)).toArray()) as LogLine[][]).flat();
}

describe('log frames', () => {
  const cut = Buffer.from('ü');
  const bytes = Buffer.concat([
    frame(1, T1, 'plain\n'),
    frame(2, T1, 'to stderr\n'),
    frame(1, T1, Buffer.concat([Buffer.from('begin '), cut.subarray(0, 1)])),
    frame(2, T2, 'between\n'),
    frame(1, T1, Buffer.concat([cut.subarray(1), Buffer.from(' end\n')])),
    frame(1, T2, '\n'),
    frame(1, T2, 'never ended'),
  ]);
  const lines: LogLine[] = [
    { time: T1, stream: 'stdout', text: 'plain' },
    { time: T1, stream: 'stderr', text: 'to stderr' },
    { time: T2, stream: 'stderr', text: 'between' },
    { time: T1, stream: 'stdout', text: 'begin ü end' },
    { time: T2, stream: 'stdout', text: '' },
    { time: T2, stream: 'stdout', text: 'never ended' },
  ];

  test.each([1, 2, 3, 7, 8, 9, 64, 10_000])('arrive whole in chunks of %i bytes', async (chunkBytes) => {
    expect(await decode(bytes, chunkBytes)).toEqual(lines);
  });

  test('an endless line comes in pieces, none of which cuts a character', async () => {
    const body = Buffer.from('€'.repeat(1000));
    const pieces = [];
    for (let at = 0; at < body.length; at += 100) pieces.push(frame(1, T1, body.subarray(at, at + 100)));
    const decoded = await decode(Buffer.concat([...pieces, frame(1, T1, 'x\n')]), 33, 256);
    expect(decoded.length).toBeGreaterThan(5);
    expect(decoded.map((line) => line.text).join('')).toBe(`${'€'.repeat(1000)}x`);
    expect(Math.max(...decoded.map((line) => Buffer.byteLength(line.text)))).toBeLessThan(512);
  });

  test.each([
    ['text', Buffer.from('HTTP/1.1 200 OK\r\n\r\n')],
    ['an unknown stream', frame(9, T1, 'x\n')],
    ['a huge length', Buffer.from([1, 0, 0, 0, 255, 255, 255, 255])],
  ])('%s is not taken for logs', async (_, garbage) => {
    await expect(decode(garbage)).rejects.toMatchObject({ code: 'unavailable' });
  });

  test('the engine’s own complaint ends the reading with its words', async () => {
    const all = Buffer.concat([frame(1, T1, 'one\n'), frame(3, T1, 'error from daemon: gone')]);
    await expect(decode(all)).rejects.toThrow('error from daemon: gone');
  });

  test('50 MB of lines are taken no faster than they are read', async () => {
    const chunk = Buffer.concat(Array.from({ length: 500 }, (_, i) => frame(1, T1, `${i} ${'x'.repeat(70)}\n`)));
    let sent = 0;
    let most = 0;
    const source = new Readable({
      read() {
        sent += chunk.length;
        this.push(sent > 50_000_000 ? null : chunk);
      },
    });
    let count = 0;
    let taken = 0;
    for await (const lines of source.pipe(new FrameLines()) as AsyncIterable<LogLine[]>) {
      count += lines.length;
      taken += lines.reduce((sum, { text }) => sum + text.length + 41, 0);
      most = Math.max(most, sent - taken);
    }
    expect(count).toBeGreaterThan(400_000);
    expect(most).toBeLessThan(5_000_000);
  });
});

describe('reading lines', () => {
  const watch = { silenceMs: 50, onSilence: async () => undefined };

  test('a stream that is cut says so; one that ends ends', async () => {
    const never = new AbortController().signal;
    const cut = new Readable({ read() {} });
    cut.push(frame(1, T1, 'one\n'));
    const lines = readLines(cut, watch, never);
    expect((await lines.next()).value).toMatchObject([{ text: 'one' }]);
    const next = lines.next();
    cut.destroy();
    await expect(next).rejects.toMatchObject({ code: 'unavailable' });
    expect(await all(readLines(Readable.from([frame(1, T1, 'one\n')]), watch, never))).toHaveLength(1);
  });

  test('silence is borne while the engine lives, and ends when it does not', async () => {
    let asked = 0;
    const source = new Readable({ read() {} });
    const onSilence = async () => {
      if (++asked === 3) throw new Error('no answer');
    };
    const lines = readLines(source, { silenceMs: 5, onSilence }, new AbortController().signal);
    await expect(lines.next()).rejects.toThrow('no answer');
    expect(asked).toBe(3);
    expect(source.destroyed).toBe(true);
  });

  test('the query always names a tail, and time in the engine’s way', () => {
    expect(logQuery({ follow: true, tail: 5, since: 1_700_000_000_007, stream: 'stderr' })).toEqual({
      follow: true,
      stdout: false,
      stderr: true,
      timestamps: true,
      tail: '5',
      since: '1700000000.007000000',
    });
    expect(logQuery({ follow: false, tail: -3 })).toMatchObject({ tail: '0', stdout: true, stderr: true });
  });
});
