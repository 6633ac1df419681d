import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { EventReader } from '../support/event-reader.js';
import { anthropic, FakeUpstream, faults, openai, type Script } from '../support/fake-upstream.js';
import { until } from '../support/until.js';

const STALL_MS = 700;
const KEY = 'sk-provider-0123456789abcdef';

let openAiUpstream: FakeUpstream;
let anthropicUpstream: FakeUpstream;
let app: TestApp;
let user: Awaited<ReturnType<TestApp['user']>>;

beforeAll(async () => {
  [openAiUpstream, anthropicUpstream] = await Promise.all([FakeUpstream.start(), FakeUpstream.start()]);
  anthropicUpstream.fallback = anthropic.text('Hello there');
  app = await startApp({
    runtime: 'process',
    env: {
      OPENAI_BASE_URL: `${openAiUpstream.url}/v1`,
      ANTHROPIC_BASE_URL: anthropicUpstream.url,
      PROVIDER_STALL_TIMEOUT_MS: String(STALL_MS),
    },
    app: { secrets: { openaiApiKey: KEY, anthropicApiKey: KEY } },
  });
  user = await app.user();
  await app.agent(user, 'a', { model: 'openai/gpt-fake' });
  await app.agent(user, 'c', { model: 'anthropic/claude-fake' });
  await app.ready(user);
});
afterAll(async () => {
  await app.stop();
  await Promise.all([openAiUpstream.close(), anthropicUpstream.close()]);
});
afterEach(() => {
  openAiUpstream.fallback = openai.text('Hello there');
  anthropicUpstream.fallback = anthropic.text('Hello there');
});

const body = { messages: [{ role: 'user', content: 'hello' }] };
const chat = (agent = 'a') => app.post(`/api/v1/agents/${agent}/chat`, user.key, body);
const stream = (agent = 'a') => EventReader.open(`${app.url}/api/v1/agents/${agent}/chat/stream`, { key: user.key, body });
const usageRow = (turnId: string) =>
  app.database.db.selectFrom('usage').selectAll().where('turn_id', '=', turnId).executeTakeFirst();
const settledUsage = async (turnId: string) => {
  await until(async () => ((await usageRow(turnId))?.status ?? 'open') !== 'open', 'the usage row to be settled');
  const row = (await usageRow(turnId))!;
  return {
    status: row.status,
    prompt: Number(row.prompt_tokens),
    completion: Number(row.completion_tokens),
    counted: row.counted,
    error: row.error,
  };
};
const lastTurnId = async () =>
  (await app.database.db.selectFrom('turns').select('id').orderBy('created_at', 'desc').limit(1).executeTakeFirstOrThrow()).id;

test('an answer of the provider reaches the client, with its own figures in the usage row', async () => {
  const answer = await chat();
  expect(answer.json).toMatchObject({
    message: 'Hello there',
    usage: { prompt_tokens: 11, completion_tokens: 7, total_tokens: 18 },
  });
  expect(await settledUsage(answer.json.turn_id)).toEqual({
    status: 'finished',
    prompt: 11,
    completion: 7,
    counted: false,
    error: null,
  });
  expect(openAiUpstream.requests.at(-1)).toMatchObject({
    path: '/v1/chat/completions',
    headers: { authorization: `Bearer ${KEY}` },
    body: { model: 'gpt-fake', stream: true },
  });
});

test('one without figures is counted, and marked so', async () => {
  openAiUpstream.fallback = openai.text('Hello there', null);
  const answer = await chat();
  expect(await settledUsage(answer.json.turn_id)).toMatchObject({ status: 'finished', completion: 3, counted: true });
});

test('a slow one is waited for as long as it says something', async () => {
  openAiUpstream.fallback = { ...openai.text('one two three four'), pauseMs: STALL_MS / 2 };
  const reader = await (await stream()).end();
  expect(reader.said).toBe('one two three four');
});

const half = { pieces: [openai.event({ delta: { role: 'assistant' } }), openai.word('Hello'), openai.word(' there')] };
const refused = { status: 'failed', prompt: 0, completion: 0, counted: true };
const broken = { status: 'failed', prompt: expect.any(Number), completion: 3, counted: true };
const asked = { status: 'failed', prompt: expect.any(Number), completion: 0, counted: true };

/** The fault, what Berth answers a call in one piece, and what the usage row says. */
const FAULTS: [string, Script, { status: number; code: string; said: RegExp }, object][] = [
  [
    '401',
    openai.error(401, `Incorrect API key provided: ${KEY}`),
    { status: 502, code: 'upstream_error', said: /^The provider refused Berth's credentials \(401\)$/ },
    refused,
  ],
  [
    '429',
    openai.error(429, 'Rate limit of org-secret reached', { 'retry-after': '30' }),
    { status: 429, code: 'rate_limited', said: /^The provider limits the rate of requests/ },
    refused,
  ],
  [
    '400',
    openai.error(400, 'maximum context length is 8192 tokens'),
    { status: 400, code: 'invalid_request', said: /maximum context length is 8192 tokens/ },
    refused,
  ],
  [
    '500',
    openai.error(500, 'secret stack trace'),
    { status: 502, code: 'upstream_error', said: /^The provider failed \(500\)$/ },
    refused,
  ],
  ['HTML', faults.html(), { status: 502, code: 'upstream_error', said: /not a completion/ }, refused],
  ['HTML with 502', faults.html(502), { status: 502, code: 'upstream_error', said: /The provider failed \(502\)/ }, refused],
  ['garbage', faults.garbage(), { status: 502, code: 'upstream_error', said: /not a completion/ }, refused],
  ['noise', faults.noise(), { status: 502, code: 'upstream_error', said: /not a completion/ }, refused],
  [
    'no answer',
    faults.stallBeforeHeaders(),
    { status: 504, code: 'timeout', said: /did not begin to answer within 700 ms/ },
    asked,
  ],
  [
    'a connection cut at once',
    faults.cutBeforeHeaders(),
    { status: 502, code: 'upstream_error', said: /connection to the provider failed/ },
    refused,
  ],
  [
    'a stream that stalls',
    { ...half, after: 'stall' },
    { status: 504, code: 'timeout', said: /sent nothing for 700 ms/ },
    broken,
  ],
  ['a stream that is cut', { ...half, after: 'cut' }, { status: 502, code: 'upstream_error', said: /was cut off/ }, broken],
  ['a stream that ends too early', half, { status: 502, code: 'upstream_error', said: /ended before its end/ }, broken],
];

describe('a provider that answers with', () => {
  test.each(FAULTS)(
    '%s: a clear error in time, no secret in it, and a usage row that tells the truth',
    async (_, fault, expected, usage) => {
      openAiUpstream.fallback = fault;
      const begun = performance.now();
      const one = await chat();
      expect(performance.now() - begun, 'time to the error').toBeLessThan(STALL_MS + 3_000);
      expect({ status: one.status, code: one.json.code, said: one.json.error }, one.text).toEqual({
        status: expected.status,
        code: expected.code,
        said: expect.stringMatching(expected.said),
      });
      if (one.status === 429) expect(Number(one.headers.get('retry-after'))).toBeGreaterThan(0);
      const turnId = await lastTurnId();
      expect(await settledUsage(turnId)).toEqual({ ...usage, error: expect.stringMatching(expected.said) });
      const turn = await app.database.db.selectFrom('turns').selectAll().where('id', '=', turnId).executeTakeFirstOrThrow();
      expect(turn).toMatchObject({ status: 'failed', error: expect.stringMatching(expected.said) });

      const reader = await (await stream()).end();
      expect(reader.status).toBe(200);
      expect((await reader.first('error')).data).toMatchObject({
        code: expected.code,
        error: expect.stringMatching(expected.said),
      });
      expect(reader.names.at(-1)).toBe('error');
      if (usage === broken) expect(reader.said).toBe('Hello there');
      for (const text of [one.text, reader.text]) expect(text).not.toMatch(/sk-provider|secret|127\.0\.0\.1/);
      openAiUpstream.fallback = openai.text('Hello there');
      expect((await chat()).json.message).toBe('Hello there');
    },
  );

  test('failures in a row: it is not asked for a while, said at once, and the other provider goes on', async () => {
    openAiUpstream.fallback = openai.error(500, 'down');
    for (let i = 0; i < 5; i++) expect((await chat()).status).toBe(502);
    const asked = openAiUpstream.requests.length;
    const answer = await chat();
    expect([answer.status, answer.json.error]).toEqual([502, expect.stringContaining('it is not asked for a while')]);
    expect(openAiUpstream.requests.length).toBe(asked);
    expect((await chat('c')).json.message).toBe('Hello there');
  });
});

describe('Anthropic', () => {
  test('answers through the same path, with its own figures', async () => {
    const answer = await chat('c');
    expect(answer.json).toMatchObject({ message: 'Hello there', usage: { prompt_tokens: 20, completion_tokens: 9 } });
    expect(await settledUsage(answer.json.turn_id)).toEqual({
      status: 'finished',
      prompt: 20,
      completion: 9,
      counted: false,
      error: null,
    });
    expect(anthropicUpstream.requests.at(-1)).toMatchObject({ path: '/v1/messages', headers: { 'x-api-key': KEY } });
  });

  test.each<[string, Script, { status: number; code: string; said: RegExp }]>([
    [
      'overloaded',
      anthropic.error(529, 'overloaded_error', 'Overloaded'),
      { status: 502, code: 'upstream_error', said: /The provider failed \(529\)/ },
    ],
    [
      'stalled',
      { pieces: [anthropic.start(), anthropic.word('Hello')], after: 'stall' },
      { status: 504, code: 'timeout', said: /sent nothing for 700 ms/ },
    ],
  ])('%s is a clear error', async (_, fault, { status, code, said }) => {
    anthropicUpstream.fallback = fault;
    const answer = await chat('c');
    expect({ status: answer.status, code: answer.json.code, said: answer.json.error }).toEqual({
      status,
      code,
      said: expect.stringMatching(said),
    });
    expect((await settledUsage(await lastTurnId())).status).toBe('failed');
  });
});

describe('the client', () => {
  const endless = (): Script => ({
    pieces: (function* () {
      yield anthropic.start();
      for (;;) yield anthropic.word('word '.repeat(200));
    })(),
  });

  test('that goes away lets the provider go', async () => {
    const { hungUp } = anthropicUpstream;
    anthropicUpstream.fallback = { pieces: [anthropic.start(), anthropic.word('Hello')], after: 'stall' };
    const reader = await stream('c');
    const { data } = await reader.first('start');
    await reader.first('text');
    reader.hangUp();
    await until(() => anthropicUpstream.hungUp === hungUp + 1, 'the provider to be let go');
    expect(await settledUsage(data.turn_id)).toMatchObject({ status: 'cut_off', counted: true, completion: 2 });
    const turn = () =>
      app.database.db.selectFrom('turns').select('status').where('id', '=', data.turn_id).executeTakeFirstOrThrow();
    await until(async () => (await turn()).status === 'cancelled', 'the turn to be cancelled');
  });

  test('that stops reading stops the provider from being read', async () => {
    anthropicUpstream.fallback = endless();
    const from = anthropicUpstream.written;
    const reader = await stream('c');
    reader.pause();
    const { hungUp } = anthropicUpstream;
    let last = -1;
    await until(
      async () => {
        await new Promise((resolve) => setTimeout(resolve, 300));
        const still = anthropicUpstream.written > from && anthropicUpstream.written === last;
        last = anthropicUpstream.written;
        return still || reader.ended;
      },
      'the flow to stop',
      30_000,
    );
    expect(anthropicUpstream.written - from).toBeLessThan(32 * 1024 * 1024);
    reader.hangUp();
    await until(() => anthropicUpstream.hungUp > hungUp, 'the provider to be let go');
  }, 40_000);
});
