import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { AnthropicProvider } from '../../src/llm/anthropic.js';
import { anthropicRequest } from '../../src/llm/anthropic-request.js';
import type { ChatMessage } from '../../src/llm/provider.js';
import { anthropic, FakeUpstream } from '../support/fake-upstream.js';
import { collect } from './upstreams.js';

const convert = (messages: ChatMessage[], more: object = {}) => anthropicRequest({ model: 'claude', messages, ...more }, 4096);
const user = (content: unknown): ChatMessage => ({ role: 'user', content });
const TOOL = {
  type: 'function',
  function: { name: 'read', description: 'Reads', parameters: { type: 'object', properties: { path: {} } } },
};

describe("a request in Anthropic's terms", () => {
  it("is this, for all that an agent's loop sends", () => {
    const call = (id: string, args: string) => ({ id, type: 'function' as const, function: { name: 'read', arguments: args } });
    const body = convert(
      [
        { role: 'system', content: 'Be kind' },
        { role: 'developer', content: [{ type: 'text', text: 'Be brief' }] },
        user('first'),
        { role: 'assistant', content: 'Let me look', tool_calls: [call('a', '{"path":"x"}'), call('b', '')] },
        { role: 'tool', tool_call_id: 'a', content: 'text of x' },
        { role: 'tool', tool_call_id: 'b', content: '' },
        user('and?'),
      ],
      {
        tools: [TOOL, { type: 'function', function: { name: 'list' } }],
        temperature: 1.5,
        top_p: 0.9,
        stop: 'END',
        max_tokens: 77,
        user: 'u1',
        n: 2,
        seed: 1,
      },
    );
    const cached = { cache_control: { type: 'ephemeral' } };
    expect(body).toEqual({
      model: 'claude',
      max_tokens: 77,
      stream: true,
      system: [{ type: 'text', text: 'Be kind\n\nBe brief', ...cached }],
      messages: [
        { role: 'user', content: [{ type: 'text', text: 'first' }] },
        {
          role: 'assistant',
          content: [
            { type: 'text', text: 'Let me look' },
            { type: 'tool_use', id: 'a', name: 'read', input: { path: 'x' } },
            { type: 'tool_use', id: 'b', name: 'read', input: {} },
          ],
        },
        {
          role: 'user',
          content: [
            { type: 'tool_result', tool_use_id: 'a', content: [{ type: 'text', text: 'text of x' }] },
            { type: 'tool_result', tool_use_id: 'b' },
            { type: 'text', text: 'and?', ...cached },
          ],
        },
      ],
      tools: [
        { name: 'read', description: 'Reads', input_schema: { type: 'object', properties: { path: {} } } },
        { name: 'list', input_schema: { type: 'object', properties: {} } },
      ],
      stop_sequences: ['END'],
      temperature: 1,
      metadata: { user_id: 'u1' },
    });
  });

  it('is not marked for caching without tools, and has a default of tokens', () => {
    expect(convert([{ role: 'system', content: 's' }, user('x')])).toEqual({
      model: 'claude',
      max_tokens: 4096,
      stream: true,
      system: [{ type: 'text', text: 's' }],
      messages: [{ role: 'user', content: [{ type: 'text', text: 'x' }] }],
    });
    expect(convert([user('x')], { max_completion_tokens: 5, max_tokens: 9 }).max_tokens).toBe(5);
    expect(convert([user('x')], { top_p: 0.5 }).top_p).toBe(0.5);
  });

  it('says how tools may be chosen', () => {
    const choice = (more: object) => convert([user('x')], { tools: [TOOL], ...more }).tool_choice;
    expect(choice({})).toBeUndefined();
    expect(choice({ tool_choice: 'auto' })).toEqual({ type: 'auto' });
    expect(choice({ tool_choice: 'none', parallel_tool_calls: false })).toEqual({ type: 'none' });
    expect(choice({ tool_choice: 'required' })).toEqual({ type: 'any' });
    expect(choice({ tool_choice: { type: 'function', function: { name: 'read' } } })).toEqual({ type: 'tool', name: 'read' });
    expect(choice({ parallel_tool_calls: false })).toEqual({ type: 'auto', disable_parallel_tool_use: true });
  });

  it('carries images and documents, by data and by URL', () => {
    const parts = [
      { type: 'image_url', image_url: { url: 'data:image/png;base64,AAAA' } },
      { type: 'image_url', image_url: { url: 'https://example.com/a.png' } },
      { type: 'file', file: { file_data: 'data:application/pdf;base64,BBBB' } },
    ];
    expect(convert([user(parts)]).messages[0]?.content).toEqual([
      { type: 'image', source: { type: 'base64', media_type: 'image/png', data: 'AAAA' } },
      { type: 'image', source: { type: 'url', url: 'https://example.com/a.png' } },
      { type: 'document', source: { type: 'base64', media_type: 'application/pdf', data: 'BBBB' } },
    ]);
  });

  it('refuses what cannot be said', () => {
    const bad = { name: 'ProviderError', kind: 'bad_request' };
    expect(() => convert([user([{ type: 'input_audio', input_audio: {} }])])).toThrow(expect.objectContaining(bad));
    expect(() => convert([user([{ type: 'image_url', image_url: { url: 'file:///etc/passwd' } }])])).toThrow(
      expect.objectContaining(bad),
    );
    expect(() => convert([user('x')], { tools: [{ type: 'web_search' }] })).toThrow(expect.objectContaining(bad));
  });

  it('leaves out empty text, joins turns of one role, keeps arguments that are no JSON, trims a begun answer', () => {
    const broken = [{ id: 'a', type: 'function' as const, function: { name: 'f', arguments: '{"pa' } }];
    expect(convert([user('a'), user(' '), user('b'), { role: 'assistant', content: '', tool_calls: broken }]).messages).toEqual([
      {
        role: 'user',
        content: [
          { type: 'text', text: 'a' },
          { type: 'text', text: 'b' },
        ],
      },
      { role: 'assistant', content: [{ type: 'tool_use', id: 'a', name: 'f', input: { invalid_json: '{"pa' } }] },
    ]);
    expect(convert([user('a'), { role: 'assistant', content: 'So: \n' }]).messages[1]?.content).toEqual([
      { type: 'text', text: 'So:' },
    ]);
  });

  it('never changes the request it was made of', () => {
    const request = {
      model: 'claude',
      messages: [{ role: 'system' as const, content: 's' }, user([{ type: 'text', text: 'x' }])],
      tools: [TOOL],
    };
    const before = structuredClone(request);
    anthropicRequest(request, 10);
    expect(request).toEqual(before);
  });
});

describe("Anthropic's stream", () => {
  let upstream: FakeUpstream;
  let provider: AnthropicProvider;
  beforeEach(async () => {
    upstream = await FakeUpstream.start();
    provider = new AnthropicProvider({ baseUrl: upstream.url, apiKey: 'sk-ant-1', stallTimeoutMs: 300 });
  });
  afterEach(() => upstream.close());

  it.each([
    ['end_turn', 'stop'],
    ['stop_sequence', 'stop'],
    ['max_tokens', 'length'],
    ['tool_use', 'tool_calls'],
    ['refusal', 'content_filter'],
    ['novelty', 'stop'],
  ])('%s means %s', async (stop, finish) => {
    upstream.script({ pieces: [anthropic.start(), anthropic.word('Hi'), ...anthropic.tail(stop)] });
    expect((await collect(provider)).finish).toBe(finish);
  });

  it('counts what was read from and written to the cache as prompt', async () => {
    const usage = { input_tokens: 5, cache_creation_input_tokens: 30, cache_read_input_tokens: 100, output_tokens: 2 };
    upstream.script(anthropic.text('Hi', usage));
    const got = await collect(provider);
    expect(got.usage).toEqual({ promptTokens: 135, completionTokens: 9, counted: false });
    expect(JSON.parse(got.chunks.at(-1)?.json ?? '')).toMatchObject({
      choices: [],
      usage: {
        prompt_tokens: 135,
        completion_tokens: 9,
        total_tokens: 144,
        prompt_tokens_details: { cached_tokens: 100, cache_write_tokens: 30 },
      },
    });
  });

  it('gives its figures of the prompt even where the answer is cut', async () => {
    upstream.script({ pieces: [anthropic.start(), anthropic.word('Hello')], after: 'cut' });
    expect(await collect(provider)).toMatchObject({ usage: { promptTokens: 20, completionTokens: 1 }, error: { kind: 'cut' } });
  });

  it('numbers tool calls among themselves, text and thinking between them', async () => {
    const block = (index: number, content: object, ...deltas: object[]) => [
      anthropic.event('content_block_start', { index, content_block: content }),
      ...deltas.map((delta) => anthropic.event('content_block_delta', { index, delta })),
      anthropic.event('content_block_stop', { index }),
    ];
    const tool = (id: string) => ({ type: 'tool_use', id, name: 'f', input: {} });
    upstream.script({
      pieces: [
        anthropic.start(),
        ...block(
          0,
          { type: 'thinking', thinking: '' },
          { type: 'thinking_delta', thinking: 'hm' },
          { type: 'signature_delta', signature: 'x' },
        ),
        ...block(1, { type: 'text', text: '' }, { type: 'text_delta', text: 'Hi' }),
        ...block(
          2,
          tool('a'),
          { type: 'input_json_delta', partial_json: '' },
          { type: 'input_json_delta', partial_json: '{"x":1}' },
        ),
        ...block(3, { type: 'server_tool_use', id: 's', name: 'web' }, { type: 'input_json_delta', partial_json: '{}' }),
        ...block(4, tool('b')),
        ...block(5, { ...tool('c'), input: { y: 2 } }),
        anthropic.event('some_future_event', { x: 1 }),
        ...anthropic.tail('tool_use'),
      ],
    });
    const got = await collect(provider);
    expect(got.text).toBe('Hi');
    expect(got.calls.map((call) => call.args)).toEqual(['{"x":1}', '{}', '{"y":2}']);
    expect(got.chunks.map((chunk) => chunk.text).join('|')).toContain('hm');
  });

  it('is whole without message_stop once the stop reason came', async () => {
    const [stop] = anthropic.tail();
    for (const after of ['end', 'cut', 'stall'] as const) {
      upstream.script({ pieces: [anthropic.start(), anthropic.word('Hi'), stop ?? ''], after });
      expect(await collect(provider)).toMatchObject({ text: 'Hi', usage: { completionTokens: 9 }, error: undefined });
    }
  });

  it('may come as one message', async () => {
    const content = [
      { type: 'text', text: 'Hi' },
      { type: 'tool_use', id: 'a', name: 'f', input: { x: 1 } },
    ];
    const message = {
      id: 'm',
      type: 'message',
      role: 'assistant',
      content,
      stop_reason: 'tool_use',
      usage: { input_tokens: 3, output_tokens: 4 },
    };
    upstream.script({ headers: { 'content-type': 'application/json' }, pieces: [JSON.stringify(message)] });
    expect(await collect(provider)).toMatchObject({
      text: 'Hi',
      calls: [{ args: '{"x":1}' }],
      usage: { promptTokens: 3, completionTokens: 4 },
      error: undefined,
    });
  });

  it.each([
    ['overloaded_error', 'upstream'],
    ['api_error', 'upstream'],
    ['rate_limit_error', 'rate_limited'],
    ['invalid_request_error', 'bad_request'],
    ['authentication_error', 'auth'],
  ])('an error event of type %s is %s', async (type, kind) => {
    upstream.script({
      pieces: [anthropic.start(), anthropic.event('error', { error: { type, message: 'see http://x.example' } })],
    });
    const { error } = await collect(provider);
    expect(error).toMatchObject({ kind, message: expect.not.stringContaining('http') });
  });
});
