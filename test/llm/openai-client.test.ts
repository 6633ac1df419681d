import OpenAI, { APIError, BadRequestError, RateLimitError } from 'openai';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { DemoProvider } from '../../src/llm/demo.js';
import { startGateway, type Harness } from './gateway-harness.js';

let harness: Harness;
let client: OpenAI;

beforeEach(async () => {
  harness = await startGateway([new DemoProvider()]);
  client = new OpenAI({ baseURL: `${harness.url}/v1`, apiKey: 'any', maxRetries: 0 });
});
afterEach(() => harness.close());

const say = (content: string) => ({ model: 'demo/echo', messages: [{ role: 'user' as const, content }] });

describe('the official openai client', () => {
  it('chats', async () => {
    const completion = await client.chat.completions.create(say('hello'));
    expect(completion.choices[0]?.message.content).toBe('You said: hello');
    expect(completion.usage?.total_tokens).toBe(4);
  });

  it('streams', async () => {
    let text = '';
    let total = 0;
    for await (const chunk of await client.chat.completions.create({ ...say('hello world'), stream: true })) {
      text += chunk.choices[0]?.delta.content ?? '';
      total = chunk.usage?.total_tokens ?? total;
    }
    expect([text, total]).toEqual(['You said: hello world', 6]);
  });

  it('puts streamed tool calls together', async () => {
    const final = await client.chat.completions.stream(say('/tool a {"x": [1, 2]}\n/tool b {}')).finalChatCompletion();
    expect(final.choices[0]?.finish_reason).toBe('tool_calls');
    expect(final.choices[0]?.message.tool_calls).toMatchObject([
      { id: 'call_1_0', function: { name: 'a', arguments: '{"x": [1, 2]}' } },
      { id: 'call_1_1', function: { name: 'b', arguments: '{}' } },
    ]);
  });

  it('lists models', async () => {
    const ids: string[] = [];
    for await (const model of client.models.list()) ids.push(model.id);
    expect(ids).toEqual(['demo/echo']);
  });

  it('sees proper errors, before the stream and in it', async () => {
    await expect(client.chat.completions.create({ ...say('x'), model: 'nope/x' })).rejects.toBeInstanceOf(BadRequestError);
    await expect(client.chat.completions.create(say('/error rate_limited'))).rejects.toBeInstanceOf(RateLimitError);
    const stream = await client.chat.completions.create({ ...say('/error cut 2'), stream: true });
    const read = async () => {
      for await (const _ of stream);
    };
    await expect(read()).rejects.toBeInstanceOf(APIError);
  });

  it('cancels', async () => {
    const stream = await client.chat.completions.create({ ...say('/slow 1000 20'), stream: true });
    for await (const _ of stream) break;
    await vi.waitFor(() => expect(harness.ledger.last().status).toBe('cut_off'));
  });
});
