import { describe, expect, it } from 'vitest';
import { countPromptTokens, countTokens, Meter, type CallEnd } from '../../src/llm/meter.js';
import type { ChatRequest, ProviderChunk } from '../../src/llm/provider.js';

const REQUEST: ChatRequest = { model: 'm', messages: [{ role: 'user', content: 'x'.repeat(400) }] };
const text = (words: string): ProviderChunk => ({ json: '{}', text: words });
const figures = (promptTokens: number, completionTokens: number): ProviderChunk => ({
  json: '{}',
  text: '',
  usage: { promptTokens, completionTokens, counted: false },
});

function usage(end: CallEnd, ...chunks: ProviderChunk[]) {
  const meter = new Meter(REQUEST);
  for (const chunk of chunks) meter.add(chunk);
  return meter.usage(end);
}

describe('counting tokens', () => {
  it('follows its formula', () => {
    expect([countTokens(''), countTokens('a'), countTokens('abcd'), countTokens('abcde')]).toEqual([0, 1, 1, 2]);
    expect([countTokens('éé'), countTokens('世界'), countTokens('🙂')]).toEqual([1, 2, 2]);
  });

  it('never counts less for more', () => {
    const sample = 'Grüße, 世界 🙂 and a tail of plain words';
    for (let end = 1; end <= sample.length; end++)
      expect(countTokens(sample.slice(0, end))).toBeGreaterThanOrEqual(countTokens(sample.slice(0, end - 1)));
  });

  it('counts the same however the text was cut', () => {
    const sample = 'Grüße, 世界 🙂 and a tail of plain words';
    const whole = usage('cut', text(sample)).completionTokens;
    expect(whole).toBe(countTokens(sample));
    for (let at = 0; at <= sample.length; at++)
      expect(usage('cut', text(sample.slice(0, at)), text(sample.slice(at))).completionTokens).toBe(whole);
  });

  it('counts a megabyte in one pass: what took time by its square would take minutes', () => {
    const megabyte = 'x'.repeat(1e6);
    countTokens(megabyte);
    const began = performance.now();
    countTokens(megabyte);
    expect(performance.now() - began).toBeLessThan(1_000);
  });

  it('counts a prompt with tools, calls, images and names', () => {
    expect(countPromptTokens(REQUEST)).toBe(3 + 3 + 100);
    const image = (detail?: string) => ({
      type: 'image_url',
      image_url: { url: `data:image/png;base64,${'A'.repeat(9000)}`, detail },
    });
    expect(
      countPromptTokens({
        model: 'm',
        messages: [{ role: 'user', content: [{ type: 'text', text: 'abcd' }, image('low'), image()] }],
      }),
    ).toBe(3 + 3 + 1 + 85 + 765);
    const call = { id: 'a', type: 'function' as const, function: { name: 'f', arguments: '{}' } };
    const bare = countPromptTokens({ model: 'm', messages: [{ role: 'assistant', content: null }] });
    expect(
      countPromptTokens({
        model: 'm',
        messages: [{ role: 'assistant', content: null, tool_calls: [call] }],
        tools: [{ x: 'y'.repeat(400) }],
      }),
    ).toBeGreaterThan(bare + 100);
  });
});

describe('the usage of a call', () => {
  it("is the provider's own when the call finished", () => {
    expect(usage('finished', text('Hello there'), figures(5, 9))).toEqual({
      promptTokens: 5,
      completionTokens: 9,
      counted: false,
    });
    expect(usage('finished', figures(5, 1), text('Hello there'), figures(5, 9))).toEqual({
      promptTokens: 5,
      completionTokens: 9,
      counted: false,
    });
  });

  it('is counted where the provider gave none', () => {
    expect(usage('finished', text('Hello there'))).toEqual({ promptTokens: 106, completionTokens: 3, counted: true });
  });

  it('of a call that broke off: its prompt by the provider if known, the rest counted', () => {
    expect(usage('cut', text('Hello there'))).toEqual({ promptTokens: 106, completionTokens: 3, counted: true });
    expect(usage('interrupted', figures(20, 1), text('Hello there'))).toEqual({
      promptTokens: 20,
      completionTokens: 3,
      counted: true,
    });
    expect(usage('stalled', text('Hi'), figures(20, 50), text(' x'))).toEqual({
      promptTokens: 20,
      completionTokens: 50,
      counted: true,
    });
    expect(usage('cut', text('Hello there'), figures(20, 7))).toEqual({ promptTokens: 20, completionTokens: 7, counted: false });
  });

  it('is nothing where the provider refused or was never asked, and the prompt where it may have read it', () => {
    for (const end of ['auth', 'rate_limited', 'bad_request', 'upstream', 'unasked', 'internal'] as const) {
      expect(usage(end)).toEqual({ promptTokens: 0, completionTokens: 0, counted: true });
    }
    for (const end of ['stalled', 'cut', 'interrupted'] as const)
      expect(usage(end)).toEqual({ promptTokens: 106, completionTokens: 0, counted: true });
  });
});
