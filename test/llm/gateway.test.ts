import { once } from 'node:events';
import http from 'node:http';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { AppError } from '../../src/lib/errors.js';
import { DemoProvider } from '../../src/llm/demo.js';
import { OpenAiProvider } from '../../src/llm/openai.js';
import type { ChatRequest, Provider, ProviderChunk } from '../../src/llm/provider.js';
import { faults, FakeUpstream, openai } from '../support/fake-upstream.js';
import { call, chatBody, open, startGateway, textOf, type Harness } from './gateway-harness.js';

let upstream: FakeUpstream;
let harness: Harness;

beforeEach(async () => {
  upstream = await FakeUpstream.start();
  harness = await startGateway([new DemoProvider(), fakeOpenAi()]);
});

afterEach(async () => {
  await harness.close();
  await upstream.close();
});

function fakeOpenAi(limits: object = {}): OpenAiProvider {
  return new OpenAiProvider({
    baseUrl: `${upstream.url}/v1`,
    apiKey: 'sk-secret-1',
    stallTimeoutMs: 500,
    firstByteTimeoutMs: 500,
    ...limits,
  });
}

async function restart(limits: object, agents?: Parameters<typeof startGateway>[1]): Promise<void> {
  await harness.close();
  harness = await startGateway([new DemoProvider(), fakeOpenAi()], { limits, ...agents });
}

/** A provider made of a function, for what no real one does at will. */
function providerOf(stream: (request: ChatRequest, signal: AbortSignal) => AsyncIterable<ProviderChunk>): Provider {
  return { name: 'fake', models: () => [], stream };
}

const wordChunk = (word: string): ProviderChunk => ({
  json: JSON.stringify({ choices: [{ index: 0, delta: { content: word } }] }),
  text: word,
});

describe('answers', () => {
  it('streams chunks and ends with [DONE]', async () => {
    const reply = await call(harness.url, chatBody('demo/echo', 'hello world'));
    expect(reply.status).toBe(200);
    expect(reply.headers['content-type']).toMatch('text/event-stream');
    expect(textOf(reply)).toBe('You said: hello world');
    expect(reply.data.at(-1)).toBe('[DONE]');
    expect(harness.ledger.last()).toEqual({
      status: 'finished',
      usage: { promptTokens: 2, completionTokens: 4, counted: false },
    });
  });

  it('puts one completion together where no stream is asked for', async () => {
    const reply = await call(harness.url, chatBody('demo/echo', '/tool a {"x":1}\n/tool b {}', { stream: false }));
    const body = JSON.parse(reply.text);
    expect(body).toMatchObject({ object: 'chat.completion', usage: { completion_tokens: expect.any(Number) } });
    expect(body.choices).toEqual([
      {
        index: 0,
        finish_reason: 'tool_calls',
        message: {
          role: 'assistant',
          content: null,
          tool_calls: [
            { id: 'call_1_0', type: 'function', function: { name: 'a', arguments: '{"x":1}' } },
            { id: 'call_1_1', type: 'function', function: { name: 'b', arguments: '{}' } },
          ],
        },
      },
    ]);
  });

  it('strips the prefix, asks for usage and passes unknown fields and the row says who asked', async () => {
    const turn = 'trn_01kbaaaaaaaaaaaaaaaaaaaaaa';
    const reply = await call(harness.url, chatBody('openai/gpt-fake', 'hi', { seed: 5, made_up: { a: 1 } }), {
      'x-berth-agent': 'alpha',
      'x-berth-turn': turn,
    });
    expect(textOf(reply)).toBe('Hello there');
    expect(upstream.requests[0]?.body).toMatchObject({
      model: 'gpt-fake',
      stream: true,
      stream_options: { include_usage: true },
      seed: 5,
      made_up: { a: 1 },
    });
    expect(upstream.requests[0]?.headers.authorization).toBe('Bearer sk-secret-1');
    expect(harness.ledger.rows[0]?.entry).toEqual({
      instanceId: 'ins_1',
      deploymentId: 'dep_1',
      userId: 'usr_1',
      agentId: 'alpha',
      agentDbId: 'agt_1',
      turnId: turn,
      attempt: 1,
      provider: 'openai',
      model: 'openai/gpt-fake',
    });
    expect(harness.ledger.last().usage).toEqual({ promptTokens: 11, completionTokens: 7, counted: false });
  });

  it('lists models', async () => {
    const response = await fetch(`${harness.url}/v1/models`);
    expect(await response.json()).toEqual({
      object: 'list',
      data: [{ id: 'demo/echo', object: 'model', created: 0, owned_by: 'demo' }],
    });
  });

  it('keeps a silent stream alive with comments, then fails in it', async () => {
    await harness.close();
    harness = await startGateway([fakeOpenAi({ firstByteTimeoutMs: 250 })], { limits: { keepAliveMs: 40 } });
    upstream.script(faults.stallBeforeHeaders());
    const reply = await call(harness.url, chatBody('openai/x', 'hi'));
    expect(reply.status).toBe(200);
    expect(reply.text.match(/: keep-alive\n\n/g)?.length).toBeGreaterThan(2);
    expect(reply.data).toEqual([
      {
        error: {
          message: 'The provider did not begin to answer within 250 ms',
          type: 'server_error',
          code: 'provider_stalled',
          param: null,
        },
      },
      '[DONE]',
    ]);
  });
});

describe('requests that are refused', () => {
  const refused: [string, unknown, number, string | null][] = [
    ['no JSON', '{"model":', 400, null],
    ['an array', [], 400, null],
    ['no model', { messages: [{ role: 'user', content: 'x' }] }, 400, 'model'],
    ['no messages', { model: 'demo/echo' }, 400, 'messages'],
    ['empty messages', { model: 'demo/echo', messages: [] }, 400, 'messages'],
    ['a message that is null', { model: 'demo/echo', messages: [null] }, 400, 'messages[0]'],
    ['a wrong role', { model: 'demo/echo', messages: [{ role: 'robot', content: 'x' }] }, 400, 'messages[0].role'],
    ['content that is a number', { model: 'demo/echo', messages: [{ role: 'user', content: 5 }] }, 400, 'messages[0].content'],
    ['null parts', { model: 'demo/echo', messages: [{ role: 'user', content: [null] }] }, 400, 'messages[0].content'],
    [
      'a tool message without id',
      { model: 'demo/echo', messages: [{ role: 'tool', content: 'x' }] },
      400,
      'messages[0].tool_call_id',
    ],
    [
      'tool calls without function',
      { model: 'demo/echo', messages: [{ role: 'assistant', tool_calls: [{ id: 'a' }] }] },
      400,
      'messages[0].tool_calls[0].function.name',
    ],
    ['tools that are no array', { ...chatBody('demo/echo', 'x'), tools: {} }, 400, 'tools'],
    ['stream that is a string', chatBody('demo/echo', 'x', { stream: 'yes' }), 400, 'stream'],
  ];
  it.each(refused)('%s', async (_, body, status, param) => {
    const reply = await call(harness.url, body);
    expect(reply.status).toBe(status);
    expect(JSON.parse(reply.text).error).toMatchObject({ type: 'invalid_request_error', param });
    expect(harness.ledger.rows).toHaveLength(0);
  });

  it('names the providers there are', async () => {
    for (const model of ['gpt', 'nope/gpt', 'demo/other', '/x', 'demo/']) {
      const reply = await call(harness.url, chatBody(model, 'x'));
      expect(reply.status).toBe(400);
      expect(JSON.parse(reply.text).error.message).toMatch(/demo, openai|it has: echo/);
    }
  });

  it('other paths, other methods', async () => {
    const status = async (path: string, method: string) => (await fetch(harness.url + path, { method })).status;
    expect(await status('/v1/other', 'GET')).toBe(404);
    expect(await status('/v1/models', 'POST')).toBe(405);
    expect(await status('/v1/chat/completions', 'GET')).toBe(405);
  });

  it("a model that is not the deployment's", async () => {
    const refuse = async () => Promise.reject(new AppError('forbidden', 'model openai/x is not one of this deployment'));
    await restart({}, { agents: { allowedModel: refuse } });
    const reply = await call(harness.url, chatBody('openai/x', 'x'));
    expect(reply.status).toBe(403);
    expect(JSON.parse(reply.text).error).toMatchObject({ code: 'forbidden', type: 'permission_error' });
    expect(upstream.requests).toHaveLength(0);
  });

  it('a body over the cap, known beforehand or not, is answered 413', async () => {
    await restart({ bodyBytes: 1000 });
    expect((await call(harness.url, chatBody('demo/echo', 'x'.repeat(2000)))).status).toBe(413);
    expect((await call(harness.url, chatBody('demo/echo', 'x'.repeat(3000)), { 'transfer-encoding': 'chunked' })).status).toBe(
      413,
    );
  });

  it('a body that does not come is answered 408', async () => {
    await restart({ bodyTimeoutMs: 50 });
    const request = http.request(`${harness.url}/v1/chat/completions`, { method: 'POST', headers: { 'content-length': '100' } });
    request.on('error', () => undefined);
    request.write('{"model"');
    const [response] = (await once(request, 'response')) as [http.IncomingMessage];
    expect(response.statusCode).toBe(408);
    response.resume();
  });

  it('a body nested 100,000 deep, or made of a million objects, harms nobody', async () => {
    const nested = `${'['.repeat(100_000)}${']'.repeat(100_000)}`;
    const withPad = (pad: string) =>
      JSON.stringify(chatBody('demo/echo', 'x')).replace('"stream":true', `"stream":true,"pad":${pad}`);
    expect((await call(harness.url, withPad(nested))).status).toBe(400);
    expect((await call(harness.url, withPad(`[${'{},'.repeat(1_000_000)}0]`))).status).toBe(429);
    expect((await call(harness.url, chatBody('demo/echo', '{}[],'.repeat(100_000)))).status).toBe(200);
  });

  it('more bytes in a short time than allowed: 429, with the time after which it may again', async () => {
    await restart({ burstBytes: 5000, bytesPerSecond: 50_000 });
    const send = () => call(harness.url, chatBody('demo/echo', 'x', { pad: 'x'.repeat(4000) }));
    expect((await send()).status).toBe(200);
    const refused = await send();
    expect([refused.status, refused.headers['retry-after']]).toEqual([429, '1']);
    await vi.waitFor(async () => expect((await send()).status).toBe(200), { interval: 50 });
  });

  it('a body that is still coming does not hold up a stop', async () => {
    const request = http.request(`${harness.url}/v1/chat/completions`, { method: 'POST', headers: { 'content-length': '100' } });
    request.on('error', () => undefined);
    request.write('{"model"');
    await vi.waitFor(() => expect(harness.gateway.active).toBe(1));
    await harness.gateway.close();
    request.destroy();
  });

  it('more calls at once than allowed: 429, others are not touched', async () => {
    await restart({ concurrentCalls: 2 });
    const held = await Promise.all([1, 2].map(() => open(harness.url, chatBody('demo/echo', '/slow 1000 50'))));
    const third = await call(harness.url, chatBody('demo/echo', 'x'));
    expect(third.status).toBe(429);
    expect(third.headers['retry-after']).toBe('1');
    expect((await call(harness.url, chatBody('demo/echo', 'x'), { 'x-test-instance': 'ins_2' })).status).toBe(200);
    for (const response of held) response.destroy();
    await vi.waitFor(() => expect(harness.gateway.active).toBe(0));
    expect((await call(harness.url, chatBody('demo/echo', 'x'))).status).toBe(200);
  });

  it('more bytes at once than allowed: 429, and the bytes are given back', async () => {
    await restart({ heldBytesPerInstance: 4000 });
    const held = await open(harness.url, chatBody('demo/echo', '/slow 1000 50', { pad: 'x'.repeat(2000) }));
    expect((await call(harness.url, chatBody('demo/echo', 'x', { pad: 'x'.repeat(2000) }))).status).toBe(429);
    held.destroy();
    await vi.waitFor(() => expect(harness.gateway.active).toBe(0));
    expect((await call(harness.url, chatBody('demo/echo', 'x', { pad: 'x'.repeat(2000) }))).status).toBe(200);
  });
});

describe('the usage row', () => {
  it('is open before the provider is asked; no row, no call', async () => {
    harness.ledger.failOpen = new Error('the database is away');
    const reply = await call(harness.url, chatBody('openai/x', 'hi'));
    expect(reply.status).toBe(503);
    expect(reply.text).not.toContain('database');
    harness.ledger.failOpen = new AppError('limit_exceeded', 'the monthly tokens are used up');
    const over = await call(harness.url, chatBody('openai/x', 'hi'));
    expect(over.status).toBe(429);
    expect(JSON.parse(over.text).error).toMatchObject({ code: 'insufficient_quota', message: 'the monthly tokens are used up' });
    expect(upstream.requests).toHaveLength(0);
  });

  it('counts where the provider gives no figures, and says so', async () => {
    upstream.script(openai.text('Hello there', null));
    await call(harness.url, chatBody('openai/x', 'hi'));
    expect(harness.ledger.last()).toEqual({ status: 'finished', usage: { promptTokens: 7, completionTokens: 3, counted: true } });
  });

  it('is tried again when settling fails', async () => {
    await restart({ settleRetryMs: [5, 5] });
    harness.ledger.failSettles = 2;
    await call(harness.url, chatBody('demo/echo', 'hi'));
    await vi.waitFor(() => expect(harness.ledger.last().status).toBe('finished'));
  });

  it('is settled by the time the end is read', async () => {
    for (const stream of [true, false]) {
      await call(harness.url, chatBody('demo/echo', 'hi', { stream }));
      expect(harness.ledger.last().status).toBe('finished');
    }
  });

  it('is cut off when the caller hangs up, and the provider is let go', async () => {
    upstream.script({ pieces: Array.from({ length: 5 }, () => openai.word(' word')), after: 'stall' });
    await harness.close();
    harness = await startGateway([fakeOpenAi({ stallTimeoutMs: 60_000 })]);
    const response = await open(harness.url, chatBody('openai/x', 'hi'));
    let text = '';
    for await (const piece of response) if ((text += String(piece)).split(' word').length > 5) break;
    response.destroy();
    await vi.waitFor(() => expect(upstream.hungUp).toBe(1));
    await vi.waitFor(() => expect(harness.ledger.last()).toMatchObject({ status: 'cut_off', error: 'the caller hung up' }));
    expect(harness.ledger.last().usage).toEqual({ promptTokens: 7, completionTokens: 7, counted: true });
    expect(upstream.openConnections).toBe(0);
  });

  it('is cut off when the caller of a whole answer hangs up', async () => {
    const request = http.request(`${harness.url}/v1/chat/completions`, { method: 'POST' });
    request.on('error', () => undefined);
    request.end(JSON.stringify(chatBody('demo/echo', '/slow 1000 20', { stream: false })));
    await vi.waitFor(() => expect(harness.ledger.rows).toHaveLength(1));
    request.destroy();
    await vi.waitFor(() => expect(harness.ledger.last().status).toBe('cut_off'));
  });

  it('is settled as failed when a provider throws anything at all', async () => {
    await harness.close();
    harness = await startGateway([
      providerOf(async function* () {
        yield wordChunk('one');
        throw new TypeError('a bug with sk-secret');
      }),
    ]);
    const reply = await call(harness.url, chatBody('fake/x', 'hi'));
    expect(reply.data.slice(1)).toEqual([
      { error: { message: 'Internal error', type: 'server_error', code: 'internal', param: null } },
      '[DONE]',
    ]);
    expect(harness.ledger.last()).toMatchObject({
      status: 'failed',
      error: 'Internal error',
      usage: { completionTokens: 1, counted: true },
    });
  });

  it('is cut off when Berth stops, and the caller is told', async () => {
    const response = await open(harness.url, chatBody('demo/echo', '/slow 1000 50'));
    await harness.gateway.close();
    let text = '';
    for await (const piece of response) text += String(piece);
    expect(text).toContain('Berth is stopping');
    expect(harness.ledger.last().status).toBe('cut_off');
    expect((await call(harness.url, chatBody('demo/echo', 'x'))).status).toBe(503);
  });
});

describe('a slow reader', () => {
  it('stops the provider, and is cut off in the end', async () => {
    let given = 0;
    const endless = providerOf(async function* () {
      for (;;) {
        given++;
        yield wordChunk('x'.repeat(1000));
      }
    });
    await harness.close();
    harness = await startGateway([endless], { limits: { drainTimeoutMs: 400 } });
    const response = await open(harness.url, chatBody('fake/x', 'hi'));
    response.pause();
    let before = -1;
    await vi.waitFor(
      () => {
        const still = before === given;
        before = given;
        expect(still).toBe(true);
      },
      { interval: 60 },
    );
    // What fits into the two sockets' buffers, and no more.
    expect(given).toBeLessThan(10_000);
    await vi.waitFor(() =>
      expect(harness.ledger.last()).toMatchObject({
        status: 'cut_off',
        error: expect.stringContaining('the reader took nothing'),
      }),
    );
    response.destroy();
  });

  it('stops the upstream itself', async () => {
    const word = openai.word('x'.repeat(1000));
    upstream.script({
      pieces: (function* () {
        for (let i = 0; i < 50_000; i++) yield word;
      })(),
    });
    await harness.close();
    harness = await startGateway([fakeOpenAi({ stallTimeoutMs: 400 })], { limits: { drainTimeoutMs: 30_000 } });
    const response = await open(harness.url, chatBody('openai/x', 'hi'));
    let before = -1;
    await vi.waitFor(
      () => {
        const still = before === upstream.written;
        before = upstream.written;
        expect(still && before > 0).toBe(true);
      },
      { interval: 300, timeout: 10_000 },
    );
    expect(upstream.written).toBeLessThan(20e6);
    // No stall was declared while the reader was the slow one: it goes on as soon as reading does.
    let read = 0;
    for await (const piece of response) if ((read += (piece as Buffer).length) > 25e6) break;
    expect(read).toBeGreaterThan(25e6);
    response.destroy();
    await vi.waitFor(() => expect(upstream.hungUp).toBe(1));
  });
});
