import { describe, expect, it } from 'vitest';
import { createProviders, ProviderRegistry } from '../../src/llm/providers.js';
import { redact } from '../../src/llm/redact.js';

describe('the providers that the settings name', () => {
  it('are demo always, others with a key or an address', () => {
    const names = (config: object, secrets: object) => createProviders(config, secrets).map((provider) => provider.name);
    expect(names({}, {})).toEqual(['demo']);
    expect(names({}, { openaiApiKey: 'a', anthropicApiKey: 'b' })).toEqual(['demo', 'openai', 'anthropic']);
    expect(names({ openaiBaseUrl: 'http://127.0.0.1:1/v1' }, {})).toEqual(['demo', 'openai']);
  });

  it('are found by the part before the first slash', () => {
    const registry = new ProviderRegistry(createProviders({}, { openaiApiKey: 'a' }));
    expect(registry.resolve('openai/meta-llama/llama')).toMatchObject({
      provider: { name: 'openai' },
      model: 'meta-llama/llama',
    });
    expect(registry.resolve('demo/echo').model).toBe('echo');
    expect(() => registry.resolve('mistral/x')).toThrow('there is no such provider; providers here: demo, openai');
    expect(() => registry.resolve('gpt-5')).toThrow('model must be provider/model; providers here: demo, openai');
    expect(() => registry.resolve('demo/x')).toThrow('provider demo has no such model; it has: echo');
    expect(() => registry.resolve('__proto__/x')).toThrow('there is no such provider');
  });
});

describe('redaction', () => {
  it.each([
    [
      'Incorrect API key provided: sk-proj-abc***xyz. See https://platform.openai.com/keys.',
      'Incorrect API key provided: [redacted] See [url]',
    ],
    ['my own secret hunter2 here', 'my own secret [redacted] here'],
    ['Authorization: Bearer abc.def', 'Authorization: [redacted]'],
    ['organization org-AbC123 and sk-ant-api03-xyz', 'organization [redacted] and [redacted]'],
    ['connect ECONNREFUSED 10.1.2.3:443', 'connect ECONNREFUSED [address]'],
    ['unix socket http+unix://x and a\u0000b\nc', 'unix socket [url] and a b c'],
    ['messages.0.content: too short at 12%', 'messages.0.content: too short at 12%'],
  ])('%s', (text, expected) => expect(redact(text, ['hunter2', ''])).toBe(expected));

  it('is bounded, in length and in time', () => {
    const began = performance.now();
    expect(redact('a:'.repeat(1e6), []).length).toBeLessThanOrEqual(501);
    expect(redact('sk-'.repeat(1e6), []).length).toBeLessThanOrEqual(501);
    expect(performance.now() - began).toBeLessThan(2_000);
  });
});
