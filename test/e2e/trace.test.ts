import { afterAll, beforeAll, expect, test } from 'vitest';
import { createLog } from '../../src/lib/log.js';
import { startApp, type TestApp } from '../support/app.js';
import { FakeUpstream } from '../support/fake-upstream.js';
import { until } from '../support/until.js';

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736';
const PARENT = '00f067aa0ba902b7';
const KEY = 'sk-provider-0123456789abcdef';

const lines: Record<string, unknown>[] = [];
let upstream: FakeUpstream;
let app: TestApp;
let user: Awaited<ReturnType<TestApp['user']>>;

beforeAll(async () => {
  upstream = await FakeUpstream.start();
  app = await startApp({
    runtime: 'process',
    env: { OPENAI_BASE_URL: `${upstream.url}/v1` },
    app: {
      secrets: { openaiApiKey: KEY, anthropicApiKey: undefined },
      log: createLog('info', { write: (line) => void lines.push(JSON.parse(line) as Record<string, unknown>) }),
    },
  });
  user = await app.user();
  await app.agent(user, 'a', { model: 'openai/gpt-fake' });
  await app.ready(user);
});
afterAll(async () => {
  await app.stop();
  await upstream.close();
});

const chat = (headers: Record<string, string>) =>
  app.post('/api/v1/agents/a/chat', user.key, { messages: [{ role: 'user', content: 'hello' }] }, headers);
const idsIn = (traceparent: unknown) => String(traceparent).split('-');

test('a trace goes from the client through the instance to the provider, and into the lines of both', async () => {
  const answer = await chat({ traceparent: `00-${TRACE}-${PARENT}-01` });
  expect(answer.status, answer.text).toBe(200);
  const [, traceId, spanId, flags] = idsIn(answer.headers.get('traceresponse'));
  expect([traceId, flags]).toEqual([TRACE, '01']);
  const [, ofProvider, callSpan, callFlags] = idsIn(upstream.requests.at(-1)?.headers.traceparent);
  expect([ofProvider, callFlags]).toEqual([TRACE, '01']);
  // Each that handed it on put itself in: nobody can take the provider's call for the client's own.
  expect(new Set([PARENT, spanId, callSpan]).size).toBe(3);

  const request = lines.find((line) => line['request_id'] === answer.headers.get('x-request-id'));
  expect(request).toMatchObject({ trace_id: TRACE, span_id: spanId });
  let said = '';
  await until(
    async () => {
      said = (await app.get('/api/v1/logs?tail=50', user.key)).text;
      return said.includes(TRACE);
    },
    () => `the instance to say the trace: ${said}`,
  );
});

test('without one, or with one that is none, Berth begins it', async () => {
  const answer = await chat({ traceparent: `00-${'0'.repeat(32)}-${PARENT}-01` });
  const [, traceId] = idsIn(answer.headers.get('traceresponse'));
  expect(traceId).toMatch(/^[0-9a-f]{32}$/);
  expect(idsIn(upstream.requests.at(-1)?.headers.traceparent)[1]).toBe(traceId);
  expect(idsIn((await app.get('/health')).headers.get('traceresponse'))[1]).not.toBe(traceId);
});

test('what was asked of the provider is counted', async () => {
  const { text } = await app.get('/metrics');
  expect(text).toMatch(/^berth_llm_call_duration_seconds_count\{provider="openai",status="finished"\} 2$/m);
  expect(text).toMatch(/^berth_llm_first_chunk_seconds_count\{provider="openai"\} 2$/m);
  expect(text).toMatch(/^berth_llm_tokens_total\{provider="openai",kind="completion"\} 14$/m);
});
