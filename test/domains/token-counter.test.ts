import { afterEach, describe, expect, test } from 'vitest';
import { TokenCounter, type TokenCounterOptions } from '../../src/domains/context/token-counter.js';

const open: TokenCounter[] = [];
function counter(options?: TokenCounterOptions): TokenCounter {
  const made = new TokenCounter(options);
  open.push(made);
  return made;
}
afterEach(() => Promise.all(open.splice(0).map((one) => one.stop())));

describe('counting tokens', () => {
  test('each text is counted, in order, and what looks like a control token is text', async () => {
    const texts = ['Hello world', '', '<|endoftext|>', 'half a \ud800 pair'];
    const { encoding, counts } = await counter().count(texts);
    expect(encoding).toBe('o200k_base');
    expect(counts.slice(0, 2)).toEqual([2, 0]);
    expect(counts[2]).toBeGreaterThan(1);
    expect(counts[3]).toBeGreaterThan(2);
  });

  // Each of these takes the encoding's own code 6 to 85 seconds.
  test.each([
    ['letters', 'a'.repeat(100_000)],
    ['letters of a script without blanks', '漢字'.repeat(50_000)],
    ['blanks', ' '.repeat(100_000)],
    ['marks', '!'.repeat(100_000)],
    ['pairs of surrogates', '😀'.repeat(50_000)],
  ])('a long run of %s is counted in time', async (_, text) => {
    const { encoding, counts } = await counter({ timeoutMs: 10_000 }).count([text]);
    expect(encoding).toBe('o200k_base');
    expect(counts[0]).toBeGreaterThan(100);
  });

  test('where a run is cut the count hardly changes', async () => {
    const words = 'unbelievable'.repeat(100);
    const { counts } = await counter().count([words, 'unbelievable'.repeat(20)]);
    expect(counts[0]! / counts[1]!).toBeGreaterThan(4.5);
    expect(counts[0]! / counts[1]!).toBeLessThan(5.5);
  });

  test('too slow, or too many at once: the rougher estimate, which says so; the next is counted again', async () => {
    const slow = counter({ timeoutMs: 1, startMs: 0 });
    expect(await slow.count(['x'.repeat(8), 'é'])).toEqual({ encoding: 'bytes/4', counts: [2, 1] });
    const busy = counter({ atOnce: 1 });
    const both = await Promise.all([busy.count(['a']), busy.count(['abcd'])]);
    expect(both.map(({ encoding }) => encoding)).toEqual(['o200k_base', 'bytes/4']);
    expect((await busy.count(['a'])).encoding).toBe('o200k_base');
  });

  test('a counter that has gone idle, or was stopped while asked, serves the next', async () => {
    const idle = counter({ idleMs: 0 });
    for (let i = 0; i < 3; i++) expect((await idle.count(['a'])).counts).toEqual([1]);
    const asked = idle.count(['a']);
    await idle.stop();
    expect((await asked).counts).toEqual([1]);
    expect((await idle.count(['Hello world'])).counts).toEqual([2]);
  });
});
