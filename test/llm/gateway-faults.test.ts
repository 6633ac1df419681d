import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { BreakerProvider } from '../../src/llm/breaker.js';
import { faults, FakeUpstream, type Script } from '../support/fake-upstream.js';
import { call, chatBody, startGateway, type Harness } from './gateway-harness.js';
import { KEY, PROTOCOLS } from './upstreams.js';

const STALL_MS = 250;
/** A client learns of any fault within the stated time-out and this. */
const SLACK_MS = 2000;

let upstream: FakeUpstream;
let harness: Harness;

beforeEach(async () => {
  upstream = await FakeUpstream.start();
});
afterEach(async () => {
  await harness.close();
  await upstream.close();
});

describe.each(PROTOCOLS)('what a client sees of a fault of $name', (protocol) => {
  const limits = { stallTimeoutMs: STALL_MS, firstByteTimeoutMs: STALL_MS };
  const model = `${protocol.name}/m`;
  const nothing = { promptTokens: 0, completionTokens: 0, counted: true };
  const promptOnly = { promptTokens: 7, completionTokens: 0, counted: true };

  beforeEach(async () => {
    harness = await startGateway([protocol.provider(upstream, limits)]);
  });

  const before: [string, Script, number, string, object][] = [
    ['401', protocol.error(401, `bad ${KEY}`), 502, 'provider_auth', nothing],
    ['429', { ...protocol.error(429, 'slow down'), headers: { 'retry-after': '7' } }, 429, 'provider_rate_limited', nothing],
    ['400', protocol.error(400, 'no such field'), 400, 'provider_bad_request', nothing],
    ['500', protocol.error(500, 'oops'), 502, 'provider_upstream', nothing],
    ['garbage', faults.garbage(), 502, 'provider_upstream', nothing],
    ['HTML', faults.html(), 502, 'provider_upstream', nothing],
    ['a cut before the headers', faults.cutBeforeHeaders(), 502, 'provider_upstream', nothing],
    ['silence before the headers', faults.stallBeforeHeaders(), 504, 'provider_stalled', promptOnly],
    ['a huge line', faults.hugeLine(6e6), 502, 'provider_upstream', nothing],
  ];
  it.each(before)('%s before the first chunk: a status and an error object', async (_, script, status, code, usage) => {
    for (const stream of [true, false]) {
      upstream.script(script);
      const began = performance.now();
      const reply = await call(harness.url, chatBody(model, 'hi', { stream }));
      expect(performance.now() - began).toBeLessThan(STALL_MS + SLACK_MS);
      expect(reply.status).toBe(status);
      expect(reply.headers['content-type']).toBe('application/json');
      expect(JSON.parse(reply.text)).toEqual({
        error: { message: expect.any(String), type: expect.any(String), code, param: null },
      });
      expect(reply.text).not.toContain('sk-');
      expect(harness.ledger.last()).toMatchObject({ status: 'failed', usage, error: JSON.parse(reply.text).error.message });
      if (status === 429) expect(reply.headers['retry-after']).toBe('7');
    }
  });

  const midst: [string, Script, string][] = [
    ['a cut', { pieces: protocol.twoWords, after: 'cut' }, 'provider_cut'],
    ['silence', { pieces: protocol.twoWords, after: 'stall' }, 'provider_stalled'],
    ['an end', { pieces: protocol.twoWords, after: 'end' }, 'provider_cut'],
    ['an error event', { pieces: [...protocol.twoWords, protocol.inStreamError] }, 'provider_upstream'],
    ['garbage', { pieces: [...protocol.twoWords, ...(faults.garbage().pieces ?? [])] }, 'provider_upstream'],
  ];
  it.each(midst)('%s in the midst: the words, an error in the stream, [DONE]', async (_, script, code) => {
    upstream.script(script, script);
    const began = performance.now();
    const reply = await call(harness.url, chatBody(model, 'hi'));
    expect(performance.now() - began).toBeLessThan(STALL_MS + SLACK_MS);
    expect(reply.status).toBe(200);
    expect(reply.data.slice(-2)).toEqual([
      { error: { message: expect.any(String), type: 'server_error', code, param: null } },
      '[DONE]',
    ]);
    const words = reply.data.map((chunk) => chunk.choices?.[0]?.delta?.content ?? '').join('');
    expect(words).toBe('Hello there');
    const usage = { promptTokens: protocol.name === 'openai' ? 7 : 20, completionTokens: 3, counted: true };
    expect(harness.ledger.last()).toMatchObject({ status: 'failed', usage });
    const whole = await call(harness.url, chatBody(model, 'hi', { stream: false }));
    expect([502, 504]).toContain(whole.status);
    expect(harness.ledger.last()).toMatchObject({ status: 'failed', usage });
  });
});

describe('a provider that keeps failing', () => {
  it('is not asked any more: 503 with a time, nothing on the bill', async () => {
    const [openai] = PROTOCOLS;
    if (!openai) throw new Error('there are protocols');
    harness = await startGateway([new BreakerProvider(openai.provider(upstream), { failures: 2, openMs: 200 })]);
    upstream.script(openai.error(500, 'x'), openai.error(500, 'x'));
    for (let i = 0; i < 2; i++) expect((await call(harness.url, chatBody('openai/m', 'hi'))).status).toBe(502);
    const refused = await call(harness.url, chatBody('openai/m', 'hi'));
    expect([refused.status, refused.headers['retry-after']]).toEqual([503, '1']);
    expect(harness.ledger.last()).toMatchObject({ status: 'failed', usage: { promptTokens: 0, completionTokens: 0 } });
    expect(upstream.requests).toHaveLength(2);
    await vi.waitFor(async () => expect((await call(harness.url, chatBody('openai/m', 'hi'))).status).toBe(200));
  });
});
