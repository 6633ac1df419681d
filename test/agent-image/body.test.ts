import { Readable } from 'node:stream';
import { describe, expect, test } from 'vitest';
import { BodyRoom, type Request } from '../../agent-image/src/body.js';
import { largeMessage } from '../../agent-image/src/message.js';

const MB = 1024 * 1024;

function request(bytes: Buffer, pieceBytes: number): Request {
  const pieces = Array.from({ length: Math.ceil(bytes.length / pieceBytes) }, (_, i) =>
    bytes.subarray(i * pieceBytes, (i + 1) * pieceBytes),
  );
  return Object.assign(Readable.from(pieces, { objectMode: false }), { headers: {} }) as unknown as Request;
}

describe('a body', () => {
  test.each([
    ['small', 'ä😀"\\\n', 1, 3],
    ['at the bound of care', 'ä😀"\\\n', 20_000, 4093],
    ['large', 'ä😀"\\\nplain', 100_000, 65_537],
    ['large and plain', 'plain ', 500_000, 65_536],
    ['large in tiny pieces', 'ä😀', 50_000, 7],
  ])('that is %s comes through unchanged', async (_what, text, times, pieceBytes) => {
    const value = { text: text.repeat(times), n: [1, 2.5, null, true] };
    const read = await new BodyRoom(64 * MB).read(request(Buffer.from(JSON.stringify(value)), pieceBytes), 20 * MB);
    expect(read.value).toEqual(value);
  });

  test('of just the limit is taken, one byte more is not', async () => {
    const room = new BodyRoom(64 * MB);
    const body = Buffer.from(`"${'x'.repeat(MB - 2)}"`);
    (await room.read(request(body, 65_536), MB)).release();
    await expect(room.read(request(Buffer.concat([body, Buffer.from(' ')]), 65_536), MB)).rejects.toMatchObject({ status: 413 });
  });

  test('finds the room again that others have left', async () => {
    const room = new BodyRoom(1000);
    const body = () => request(Buffer.from(`"${'x'.repeat(600)}"`), 100);
    const first = await room.read(body(), MB);
    await expect(room.read(body(), MB)).rejects.toMatchObject({ status: 503 });
    first.release();
    const second = await room.read(body(), MB);
    second.release();
    second.release();
    await room.read(request(Buffer.from(`"${'x'.repeat(5000)}"`), 100), MB);
  });

  test('that is cut off is an error, not a wait', async () => {
    const stream = new Readable({ read: () => undefined });
    const reading = new BodyRoom(MB).read(Object.assign(stream, { headers: {} }) as unknown as Request, MB);
    stream.push('{"a":');
    stream.destroy();
    await expect(reading).rejects.toThrow();
  });
});

describe('a large message', () => {
  test('is sent whole and kept short', () => {
    const url = `data:image/png;base64,${'A"\\é😀\n'.repeat(100_000)}`;
    const message = {
      role: 'user',
      content: [
        { type: 'text', text: 'look' },
        { type: 'image_url', image_url: { url } },
      ],
    };
    const { json, whole } = largeMessage(message);
    expect(JSON.parse(String(whole))).toEqual(message);
    expect(json.length).toBeLessThan(200_000);
    expect(JSON.parse(json)).toMatchObject({ role: 'user', content: [{ type: 'text', text: 'look' }, { type: 'image_url' }] });
  });

  test('without long strings is like any other', () => {
    expect(largeMessage({ role: 'user', content: 'short' })).toEqual({ role: 'user', json: '{"role":"user","content":"short"}' });
  });
});
