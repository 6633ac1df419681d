import { PassThrough, Readable } from 'node:stream';
import { describe, expect, test } from 'vitest';
import { DEFAULT_STREAM_LIMITS, type GatewayEvent, readGatewayStream, type StreamLimits } from '../../src/gateway/stream.js';
import { AppError } from '../../src/lib/errors.js';

const chunk = (choice: object, more: object = {}) =>
  `data: ${JSON.stringify({ choices: [{ index: 0, finish_reason: null, ...choice }], ...more })}\n\n`;
const DONE = 'data: [DONE]\n\n';

async function read(
  pieces: Iterable<string | Buffer>,
  limits: Partial<StreamLimits> = {},
): Promise<{ events: GatewayEvent[]; error: AppError | undefined; body: Readable }> {
  const body = Readable.from(
    (function* () {
      for (const piece of pieces) yield Buffer.from(piece as string);
    })(),
    { objectMode: false },
  );
  const events: GatewayEvent[] = [];
  try {
    for await (const event of readGatewayStream(body, { ...DEFAULT_STREAM_LIMITS, ...limits })) events.push(event);
    return { events, error: undefined, body };
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    return { events, error, body };
  }
}

describe('what a gateway streams', () => {
  test('chunks, tool events and usage come in their order, however the bytes were cut', async () => {
    const text = [
      chunk({ delta: { role: 'assistant' } }),
      chunk({ delta: { content: 'Grüße 😀' } }),
      ': working\n\n',
      'event: tool_call\ndata: {"id":"c1","name":"list_files","arguments":"{}"}\n\n',
      'event: tool_result\ndata: {"id":"c1","name":"list_files","ok":true,"preview":"a","duration_ms":3}\n\n',
      'event: from_the_future\ndata: {"x":1}\n\n',
      chunk({ delta: {}, finish_reason: 'stop' }),
      'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":99}}\n\n',
      DONE,
    ].join('');
    const bytes = Buffer.from(text);
    const expected = [
      { type: 'chunk', chunk: { choices: [{ delta: { role: 'assistant' }, finish_reason: null }] } },
      { type: 'chunk', chunk: { choices: [{ delta: { content: 'Grüße 😀' }, finish_reason: null }] } },
      { type: 'tool_call', call: { id: 'c1', name: 'list_files', arguments: '{}' } },
      { type: 'tool_result', result: { id: 'c1', name: 'list_files', ok: true, preview: 'a', duration_ms: 3 } },
      { type: 'chunk', chunk: { choices: [{ delta: {}, finish_reason: 'stop' }] } },
      { type: 'chunk', chunk: { choices: [], usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 } } },
    ];
    for (const size of [1, 7, bytes.length]) {
      const pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) => bytes.subarray(i * size, (i + 1) * size));
      const { events, error } = await read(pieces);
      expect(error).toBeUndefined();
      expect(events).toMatchObject(expected);
    }
  });

  test.each<[string, string]>([
    ['HTML', '<html><body>Bad gateway</body></html>\n\n'],
    ['no JSON', 'data: {"choices": [{]}\n\n'],
    ['a list', 'data: []\n\n'],
    ['a text', 'data: "hello"\n\n'],
    ['null', 'data: null\n\n'],
    ['no choices', 'data: {"object":"chat.completion.chunk"}\n\n'],
    ['choices that are none', 'data: {"choices":{"0":{}}}\n\n'],
    ['a choice that is none', 'data: {"choices":[1]}\n\n'],
    ['several choices', 'data: {"choices":[{"delta":{}},{"delta":{}}]}\n\n'],
    ['a delta that is none', chunk({ delta: 'x' })],
    ['content that is no text', chunk({ delta: { content: { a: 1 } } })],
    ['a finish that is no text', chunk({ delta: {}, finish_reason: 7 })],
    ['binary', Buffer.from([0, 1, 2, 255, 254, 10, 10, 13]).toString('latin1')],
  ])('%s is not understood, and what came before it is kept', async (_, garbage) => {
    const { events, error } = await read([chunk({ delta: { content: 'a' } }), garbage, DONE]);
    expect(events).toHaveLength(1);
    expect(error).toMatchObject({ code: 'upstream_error', message: "the agent's answer was not understood" });
  });

  test('an end in the midst of it is an error', async () => {
    const { error } = await read([chunk({ delta: { content: 'a' } })]);
    expect(error).toMatchObject({ code: 'upstream_error', message: 'the agent stopped in the midst of its answer' });
  });

  test.each<[string, (n: number) => Iterable<string>]>([
    [
      'a line without an end',
      function* (n) {
        yield 'data: {"x":"';
        for (let i = 0; i < n; i++) yield 'x'.repeat(65_536);
      },
    ],
    [
      'an event of lines without an end',
      function* (n) {
        for (let i = 0; i < n; i++) yield `data: ${'x'.repeat(65_536)}\n`;
      },
    ],
    [
      'one huge event',
      function* (n) {
        yield `data: {"choices":[],"x":"${'y'.repeat(n * 65_536)}"}\n\n`;
      },
    ],
  ])('%s is cut off at the limit, and its source is let go', async (_, pieces) => {
    let taken = 0;
    const counted = (function* () {
      for (const piece of pieces(160)) {
        taken += piece.length;
        yield piece;
      }
    })();
    const { error, body } = await read(counted);
    expect(error).toMatchObject({ code: 'upstream_error' });
    expect(body.destroyed).toBe(true);
    if (taken < 10_000_000) expect(taken).toBeLessThan(2_000_000);
  });

  test('chunks that bring nothing, for ever, are an error; some of them are not', async () => {
    const empty = chunk({ delta: {} });
    expect((await read([empty.repeat(900), chunk({ delta: { content: 'a' } }), empty.repeat(900), DONE])).error).toBeUndefined();
    const { error } = await read([empty.repeat(1_500)]);
    expect(error).toMatchObject({ code: 'upstream_error', message: 'the agent goes on without saying anything' });
  });

  test('an answer beyond all bounds is cut off', async () => {
    const endless = (function* () {
      for (;;) yield chunk({ delta: { content: 'word '.repeat(100) } });
    })();
    const { error, events } = await read(endless, { turnBytes: 100_000 });
    expect(error).toMatchObject({ code: 'upstream_error', message: 'the agent sent more than 100000 bytes' });
    expect(events.length).toBeLessThan(250);
  });

  test('silence is given up, and comments are no silence', async () => {
    const body = new PassThrough();
    const events = readGatewayStream(body, { ...DEFAULT_STREAM_LIMITS, silenceMs: 150 });
    const comments = setInterval(() => body.write(': working\n\n'), 30);
    body.write(chunk({ delta: { content: 'a' } }));
    await events.next();
    const next = events.next();
    setTimeout(() => clearInterval(comments), 400);
    const begun = performance.now();
    await expect(next).rejects.toMatchObject({ code: 'timeout', message: expect.stringContaining('said nothing') });
    expect(performance.now() - begun).toBeGreaterThan(400);
  });

  test('time that the reader takes is not silence of the gateway', async () => {
    const body = new PassThrough();
    const events = readGatewayStream(body, { ...DEFAULT_STREAM_LIMITS, silenceMs: 50 });
    body.end(chunk({ delta: { content: 'a' } }) + chunk({ delta: { content: 'b' } }) + DONE);
    await events.next();
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect((await events.next()).value).toMatchObject({ chunk: { choices: [{ delta: { content: 'b' } }] } });
    expect((await events.next()).done).toBe(true);
  });

  test('a turn that never ends is ended, whatever it says', async () => {
    const body = new PassThrough();
    const talk = setInterval(() => body.write(chunk({ delta: { content: 'a' } })), 10);
    const all = async () => {
      for await (const _ of readGatewayStream(body, { ...DEFAULT_STREAM_LIMITS, turnMs: 200 }));
    };
    await expect(all()).rejects.toMatchObject({ code: 'timeout', message: expect.stringContaining('took longer than') });
    clearInterval(talk);
  });

  test('who stops reading resets the stream', async () => {
    const body = new PassThrough();
    body.write(chunk({ delta: { content: 'a' } }));
    for await (const _ of readGatewayStream(body)) break;
    expect(body.destroyed).toBe(true);
  });

  test("an error object ends in the reader's hands, cut to size", async () => {
    const { events } = await read([
      `data: ${JSON.stringify({ error: { message: 'x'.repeat(10_000), type: 'a', code: 'provider_auth' } })}\n\n`,
      DONE,
    ]);
    expect(events[0]).toMatchObject({ type: 'error', error: { message: 'x'.repeat(500), code: 'provider_auth' } });
  });
});
