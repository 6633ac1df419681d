import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { BreakerProvider } from '../../src/llm/breaker.js';
import { ProviderError, type Provider, type ProviderErrorKind } from '../../src/llm/provider.js';
import { collect, REQUEST } from './upstreams.js';

/** What the provider does at its next calls: how many words before it fails, and with what. */
type Step = { words: number; kind?: ProviderErrorKind };

let steps: Step[] = [];
let asked = 0;

const inner: Provider = {
  name: 'fake',
  models: () => ['m'],
  async *stream() {
    asked++;
    const { words, kind } = steps.shift() ?? { words: 1 };
    for (let i = 0; i < words; i++) yield { json: '{"choices":[{"delta":{"content":"w"}}]}', text: 'w' };
    if (kind) throw new ProviderError(kind, 'as told');
  },
};

const fail = (kind: ProviderErrorKind, words = 0): Step => ({ words, kind });

async function run(breaker: BreakerProvider, ...next: Step[]): Promise<unknown[]> {
  const errors: unknown[] = [];
  for (const step of next) {
    steps = [step];
    errors.push((await collect(breaker)).error);
  }
  return errors;
}

beforeEach(() => {
  steps = [];
  asked = 0;
  vi.useFakeTimers();
});
afterEach(() => void vi.useRealTimers());

describe('the breaker', () => {
  it('passes all through while the provider works', async () => {
    const breaker = new BreakerProvider(inner);
    expect(await collect(breaker)).toMatchObject({ text: 'w', error: undefined });
    expect([breaker.name, breaker.models(), breaker.state]).toEqual(['fake', ['m'], 'closed']);
  });

  it('opens after failures in a row, refuses with a time, tries one call, closes', async () => {
    const breaker = new BreakerProvider(inner, { failures: 3, openMs: 10_000 });
    await run(breaker, fail('upstream'), fail('stalled'), fail('cut'));
    expect(breaker.state).toBe('open');
    expect((await collect(breaker)).error).toMatchObject({
      kind: 'upstream',
      retryAfterS: 10,
      message: expect.stringContaining('not asked for a while'),
    });
    expect(asked).toBe(3);
    vi.advanceTimersByTime(10_001);
    await run(breaker, fail('upstream'));
    expect([breaker.state, asked]).toEqual(['open', 4]);
    vi.advanceTimersByTime(10_001);
    expect(await run(breaker, { words: 2 })).toEqual([undefined]);
    expect(breaker.state).toBe('closed');
  });

  it('a success in between begins the count anew', async () => {
    const breaker = new BreakerProvider(inner, { failures: 2 });
    await run(breaker, fail('upstream'), { words: 1 }, fail('upstream'), { words: 1 }, fail('upstream'));
    expect(breaker.state).toBe('closed');
  });

  it('answers that all break off open it, although their first words came', async () => {
    const breaker = new BreakerProvider(inner, { failures: 2 });
    await run(breaker, fail('cut', 3), fail('cut', 3));
    expect(breaker.state).toBe('open');
  });

  it('is not tripped by refused keys or requests, nor by callers that go away', async () => {
    const breaker = new BreakerProvider(inner, { failures: 2 });
    await run(breaker, ...Array.from({ length: 5 }, () => fail('auth')), fail('rate_limited'), fail('bad_request'));
    for (let i = 0; i < 5; i++) {
      steps = [{ words: 5 }];
      for await (const _ of breaker.stream(REQUEST, new AbortController().signal)) break;
    }
    expect(breaker.state).toBe('closed');
  });

  it('lets a single call try, whose first word decides', async () => {
    const breaker = new BreakerProvider(inner, { failures: 1, openMs: 1000 });
    await run(breaker, fail('upstream'));
    vi.advanceTimersByTime(1001);
    steps = [{ words: 3 }];
    const trial = breaker.stream(REQUEST, new AbortController().signal)[Symbol.asyncIterator]();
    const first = trial.next();
    await Promise.resolve();
    expect(breaker.state).toBe('half_open');
    expect((await collect(breaker)).error).toMatchObject({ kind: 'upstream' });
    await first;
    await vi.waitFor(() => expect(breaker.state).toBe('closed'));
    expect((await collect(breaker)).error).toBeUndefined();
    await trial.return?.();
  });
});
