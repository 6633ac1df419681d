import { createServer, type Server } from 'node:net';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { OpenAiProvider } from '../../src/llm/openai.js';
import { ProviderError } from '../../src/llm/provider.js';
import { faults, FakeUpstream, openai, type Script } from '../support/fake-upstream.js';
import { collect, KEY, PROTOCOLS, REQUEST } from './upstreams.js';

let upstream: FakeUpstream;

beforeEach(async () => {
  upstream = await FakeUpstream.start();
});

afterEach(() => upstream.close());

/** The script's bytes, to be cut anywhere. */
function bytesOf(script: Script): Buffer {
  return Buffer.concat([...(script.pieces ?? [])].map((piece) => Buffer.from(piece)));
}

describe.each(PROTOCOLS)('the $name upstream', (protocol) => {
  it('answers in text, with usage and the key in its header only', async () => {
    upstream.script(protocol.text('Grüße, 世界 🙂 and all'));
    const got = await collect(protocol.provider(upstream));
    expect(got).toMatchObject({ text: 'Grüße, 世界 🙂 and all', finish: 'stop', usage: protocol.usage, error: undefined });
    expect(got.chunks.map((chunk) => chunk.text).join('')).toBe('Grüße, 世界 🙂 and all');
    expect(got.chunks.every((chunk) => !chunk.json.includes('\n'))).toBe(true);
    const [seen] = upstream.requests;
    expect(seen?.path).toBe(protocol.path);
    expect(JSON.stringify(seen?.body)).not.toContain(KEY);
    expect(seen?.headers[protocol.name === 'openai' ? 'authorization' : 'x-api-key']).toContain(KEY);
  });

  it('calls tools in pieces', async () => {
    upstream.script(
      protocol.tools({ id: 'a', name: 'read', pieces: ['{"pa', 'th":', '"x"}'] }, { id: 'b', name: 'list', pieces: ['{', '}'] }),
    );
    const got = await collect(protocol.provider(upstream));
    expect(got.calls).toEqual([
      { id: 'a', name: 'read', args: '{"path":"x"}' },
      { id: 'b', name: 'list', args: '{}' },
    ]);
    expect(got.finish).toBe('tool_calls');
  });

  it('is the same wherever the network cuts it', async () => {
    const whole = bytesOf(protocol.text('né 🙂'));
    const crlf = Buffer.from(whole.toString().replaceAll('\n', '\r\n'));
    const provider = protocol.provider(upstream);
    upstream.script({ pieces: [whole] });
    const expected = JSON.stringify((await collect(provider)).chunks.map((chunk) => chunk.text));
    for (let at = 1; at < whole.length; at++) {
      upstream.script({ pieces: [whole.subarray(0, at), whole.subarray(at)], pauseMs: 0 });
      expect(JSON.stringify((await collect(provider)).chunks.map((chunk) => chunk.text))).toBe(expected);
    }
    for (const bytes of [whole, crlf]) {
      upstream.script({ pieces: [...bytes].map((byte) => Buffer.of(byte)), pauseMs: 0 });
      expect(JSON.stringify((await collect(provider)).chunks.map((chunk) => chunk.text))).toBe(expected);
    }
  });

  it('keeps its connection for the next call', async () => {
    const provider = protocol.provider(upstream);
    upstream.fallback = protocol.text('ok');
    for (let i = 0; i < 20; i++) expect((await collect(provider)).error).toBeUndefined();
    // A second one where a call begins before the end of the last answer was seen.
    expect(upstream.connections).toBeLessThanOrEqual(2);
  });

  it('takes a fresh connection where the kept one was just closed', async () => {
    const provider = protocol.provider(upstream);
    upstream.script(protocol.text('one'), faults.cutBeforeHeaders(), protocol.text('two'));
    await collect(provider);
    await new Promise((resolve) => setTimeout(resolve, 5)); // the connection is put back
    expect(await collect(provider)).toMatchObject({ text: 'two', error: undefined });
    expect(upstream.connections).toBe(2);
    upstream.script(faults.cutBeforeHeaders(), faults.cutBeforeHeaders());
    expect((await collect(provider)).error).toMatchObject({ kind: 'upstream' });
  });

  const quick = { stallTimeoutMs: 200, firstByteTimeoutMs: 200 };
  const failures: [string, Script, string, RegExp][] = [
    ['401', protocol.error(401, `Incorrect API key provided: ${KEY}`), 'auth', /refused Berth's credentials/],
    ['403', protocol.error(403, 'no'), 'auth', /refused Berth's credentials/],
    ['400', protocol.error(400, 'messages: too many'), 'bad_request', /^messages: too many$/],
    ['404', protocol.error(404, 'model: nope'), 'bad_request', /^model: nope$/],
    ['413', protocol.error(413, 'too large'), 'bad_request', /^too large$/],
    ['422', { status: 422, pieces: ['no JSON here'] }, 'bad_request', /refused the request \(422\)/],
    ['500', protocol.error(500, 'db at 10.0.0.1 is down'), 'upstream', /^The provider failed \(500\)$/],
    ['529', protocol.error(529, 'overloaded'), 'upstream', /failed \(529\)/],
    ['a redirect', faults.redirect('http://evil.example/'), 'upstream', /redirect \(302\), which is not followed/],
    ['HTML with 200', faults.html(), 'upstream', /not a completion/],
    ['HTML with 502', faults.html(502), 'upstream', /failed \(502\)/],
    ['garbage in the stream', faults.garbage(), 'upstream', /not a completion/],
    ['no events at all', faults.noise(), 'upstream', /not a completion/],
    ['an empty body', {}, 'upstream', /not a completion/],
    [
      'JSON that is no completion',
      { headers: { 'content-type': 'application/json' }, pieces: ['{"hello":1}'] },
      'upstream',
      /not a completion/,
    ],
    ['JSON scalars as events', { pieces: ['data: 5\n\n'] }, 'upstream', /not a completion/],
    ['silence before the headers', faults.stallBeforeHeaders(), 'stalled', /did not begin to answer within 200 ms/],
    ['silence in the midst', { pieces: protocol.twoWords, after: 'stall' }, 'stalled', /sent nothing for 200 ms/],
    [
      'a refusal whose body stalls',
      { ...protocol.error(400, 'x'), pieces: ['{"err'], after: 'stall' },
      'bad_request',
      /refused the request/,
    ],
    ['a cut before the headers', faults.cutBeforeHeaders(), 'upstream', /failed before it answered/],
    ['a cut in the midst', { pieces: protocol.twoWords, after: 'cut' }, 'cut', /cut off/],
    ['an end too early', { pieces: protocol.twoWords }, 'cut', /ended before its end/],
    ['an end in the midst of an event', { pieces: [...protocol.twoWords, 'data: {"choi'] }, 'cut', /ended before its end/],
    ['an error in the stream', { pieces: [...protocol.twoWords, protocol.inStreamError] }, 'upstream', /failed in the midst/],
  ];
  it.each(failures)('fails on %s', async (_, script, kind, message) => {
    upstream.script(script);
    const began = performance.now();
    const { error } = await collect(protocol.provider(upstream, quick));
    expect(error).toBeInstanceOf(ProviderError);
    expect(error).toMatchObject({ kind });
    expect((error as Error).message).toMatch(message);
    expect((error as Error).message).not.toMatch(/sk-|https?:|10\.0|127\.0/);
    expect(performance.now() - began).toBeLessThan(5000);
  });

  it('gives the words that came before a failure', async () => {
    for (const after of ['cut', 'stall', 'end'] as const) {
      upstream.script({ pieces: protocol.twoWords, after });
      expect(await collect(protocol.provider(upstream, quick))).toMatchObject({
        text: 'Hello there',
        error: expect.any(ProviderError),
      });
    }
  });

  it('passes on when to try again', async () => {
    const limited = (headers: Record<string, string>): Script => ({
      ...protocol.error(429, 'org-abc is over its limit'),
      headers,
    });
    const retryAfterS = async (headers: Record<string, string>) => {
      upstream.script(limited(headers));
      const { error } = await collect(protocol.provider(upstream));
      expect(error).toMatchObject({ kind: 'rate_limited', message: expect.not.stringContaining('org-') });
      return (error as ProviderError).retryAfterS;
    };
    expect(await retryAfterS({ 'retry-after': '7' })).toBe(7);
    expect(await retryAfterS({ 'retry-after-ms': '1500' })).toBe(2);
    expect(await retryAfterS({ 'retry-after': new Date(Date.now() + 60_000).toUTCString() })).toBeGreaterThan(50);
    expect(await retryAfterS({ 'retry-after': '999999' })).toBe(3600);
    expect(await retryAfterS({ 'retry-after': 'soon' })).toBeUndefined();
    expect(await retryAfterS({})).toBeUndefined();
  });

  it('takes neither an event nor an answer beyond its bounds', async () => {
    upstream.script(faults.hugeLine(3e6));
    const huge = await collect(protocol.provider(upstream, { maxEventBytes: 1e6 }));
    expect(huge.error).toMatchObject({
      kind: 'upstream',
      message: expect.stringContaining('more than is accepted for one event'),
    });
    await vi.waitFor(() => expect(upstream.openConnections).toBe(0));
    upstream.script({ pieces: Array.from({ length: 400 }, () => `x${'y'.repeat(9000)}\n`) });
    expect((await collect(protocol.provider(upstream, { maxEventBytes: 1e6 }))).error).toMatchObject({ kind: 'upstream' });
    upstream.script({ pieces: [...protocol.twoWords, ...Array.from({ length: 400 }, () => `: ${'y'.repeat(9000)}\n\n`)] });
    const long = await collect(protocol.provider(upstream, { maxAnswerBytes: 1e6 }));
    expect(long).toMatchObject({
      text: 'Hello there',
      error: { kind: 'upstream', message: expect.stringContaining('for the answer') },
    });
  });

  it('is let go when the signal aborts: before, in the headers, in the midst', async () => {
    const provider = protocol.provider(upstream);
    const reason = new Error('enough');
    expect((await collect(provider, REQUEST, AbortSignal.abort(reason))).error).toBe(reason);
    expect(upstream.requests).toHaveLength(0);
    for (const script of [faults.stallBeforeHeaders(), { pieces: protocol.twoWords, after: 'stall' as const }]) {
      upstream.script(script);
      const abort = new AbortController();
      const asked = collect(provider, REQUEST, abort.signal);
      const before = upstream.hungUp;
      await vi.waitFor(() => expect(upstream.openConnections).toBe(1));
      setTimeout(() => abort.abort(reason), 20);
      expect((await asked).error).toBe(reason);
      await vi.waitFor(() => expect([upstream.openConnections, upstream.hungUp]).toEqual([0, before + 1]));
    }
  });

  it('is let go when its consumer stops', async () => {
    upstream.script({ pieces: protocol.twoWords, after: 'stall' });
    for await (const _ of protocol.provider(upstream).stream(REQUEST, new AbortController().signal)) break;
    await vi.waitFor(() => expect(upstream.openConnections).toBe(0));
  });

  it('leaves nothing behind on a signal that many calls share', async () => {
    const { signal } = new AbortController();
    const added = vi.spyOn(signal, 'addEventListener');
    const removed = vi.spyOn(signal, 'removeEventListener');
    upstream.fallback = protocol.text('ok');
    const provider = protocol.provider(upstream);
    for (let i = 0; i < 5; i++) await collect(provider, REQUEST, signal);
    expect(removed.mock.calls.length).toBeGreaterThanOrEqual(added.mock.calls.length);
  });
});

describe('an upstream that cannot be reached', () => {
  it('refuses at once, named without its address', async () => {
    const url = upstream.url;
    await upstream.close();
    const { error } = await collect(new OpenAiProvider({ baseUrl: url }));
    expect(error).toMatchObject({ kind: 'upstream', message: 'The provider could not be reached' });
    upstream = await FakeUpstream.start();
  });

  it('has a time-out of its own for TLS that does not come up', async () => {
    const silent: Server = createServer((socket) => socket.on('error', () => undefined)).listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const provider = new OpenAiProvider({
      baseUrl: `https://127.0.0.1:${(silent.address() as AddressInfo).port}`,
      connectTimeoutMs: 80,
    });
    expect((await collect(provider)).error).toMatchObject({
      kind: 'stalled',
      message: 'The provider could not be reached within 80 ms',
    });
    silent.close();
  });

  it('answers something that is not HTTP', async () => {
    const server = createServer((socket) => socket.on('error', () => undefined).end('SSH-2.0-OpenSSH\r\n')).listen(
      0,
      '127.0.0.1',
    );
    await once(server, 'listening');
    const provider = new OpenAiProvider({ baseUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
    expect((await collect(provider)).error).toMatchObject({
      kind: 'upstream',
      message: 'The provider answered with something that is not HTTP',
    });
    server.close();
  });
});

describe('OpenAI-compatible servers with habits of their own', () => {
  const provider = () => new OpenAiProvider({ baseUrl: `${upstream.url}/v1/`, stallTimeoutMs: 300 });

  it('ignore stream and answer in one piece', async () => {
    const message = {
      role: 'assistant',
      content: 'Hi',
      tool_calls: [{ id: 'a', type: 'function', function: { name: 'f', arguments: '{}' } }],
    };
    const body = {
      id: 'c',
      object: 'chat.completion',
      choices: [{ index: 0, message, finish_reason: 'tool_calls' }],
      usage: openai.usage,
    };
    upstream.script({ headers: { 'content-type': 'application/json; charset=utf-8' }, pieces: [JSON.stringify(body)] });
    const got = await collect(provider());
    expect(got).toMatchObject({
      text: 'Hi',
      calls: [{ id: 'a', name: 'f', args: '{}' }],
      finish: 'tool_calls',
      error: undefined,
    });
    expect(got.usage).toEqual({ promptTokens: 11, completionTokens: 7, counted: false });
  });

  it('say error with status 200', async () => {
    upstream.script({
      headers: { 'content-type': 'application/json' },
      pieces: ['{"error":{"message":"bad sk-abcdef field","type":"invalid_request_error"}}'],
    });
    expect((await collect(provider())).error).toMatchObject({ kind: 'bad_request', message: 'bad [redacted] field' });
  });

  it('leave out [DONE], or the last line end, or say nothing after the finish', async () => {
    const [word, finish, usage] = [openai.word('Hi'), ...openai.tail()];
    for (const script of [
      { pieces: [word, finish, usage] },
      { pieces: [word, finish, usage, 'data: [DONE]'] },
      { pieces: [word, finish, usage], after: 'cut' },
      { pieces: [word, finish, usage], after: 'stall' },
    ] as Script[]) {
      upstream.script(script);
      expect(await collect(provider())).toMatchObject({
        text: 'Hi',
        finish: 'stop',
        usage: { promptTokens: 11 },
        error: undefined,
      });
    }
  });

  it('spread an event over data lines, send comments, a BOM, a mislabelled type', async () => {
    const pretty = JSON.stringify(JSON.parse(openai.word('Hi').slice(6)), null, 1)
      .split('\n')
      .map((line) => `data: ${line}\n`)
      .join('');
    upstream.script({
      headers: { 'content-type': 'text/plain' },
      pieces: ['\uFEFF: hello\n\n', `${pretty}\n`, ...openai.tail()],
    });
    const got = await collect(provider());
    expect(got).toMatchObject({ text: 'Hi', error: undefined });
    expect(got.chunks[0]?.json).not.toContain('\n');
  });

  it('stay alive by comments while they think', async () => {
    upstream.script({
      pieces: [...Array.from({ length: 6 }, () => ': thinking\n\n'), openai.word('Hi'), ...openai.tail()],
      pauseMs: 250,
    });
    const patient = new OpenAiProvider({ baseUrl: `${upstream.url}/v1`, stallTimeoutMs: 1000 });
    expect(await collect(patient)).toMatchObject({ text: 'Hi', error: undefined });
  });

  it('send nonsense as figures', async () => {
    for (const usage of [{ prompt_tokens: -1 }, { prompt_tokens: '5' }, { prompt_tokens: 1e300 }, {}]) {
      upstream.script(openai.text('Hi', usage));
      expect(await collect(provider())).toMatchObject({ text: 'Hi', usage: undefined, error: undefined });
    }
  });
});
