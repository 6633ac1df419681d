import { AnthropicProvider } from '../../src/llm/anthropic.js';
import { OpenAiProvider } from '../../src/llm/openai.js';
import type { ChatRequest, Provider, ProviderChunk, TokenUsage } from '../../src/llm/provider.js';
import type { TransportLimits } from '../../src/llm/transport.js';
import { anthropic, openai, type FakeUpstream, type Script } from '../support/fake-upstream.js';

export const KEY = 'sk-test-0123456789abcdef';

/** The two protocols side by side, so that one suite tries every fault on both. */
export interface Protocol {
  name: 'openai' | 'anthropic';
  path: string;
  provider(upstream: FakeUpstream, limits?: Partial<TransportLimits>): Provider;
  text(text: string): Script;
  /** Calls of tools, each with its arguments in the given pieces. */
  tools(...calls: { id: string; name: string; pieces: string[] }[]): Script;
  /** The start of an answer: two words and no end. */
  twoWords: string[];
  usage: TokenUsage;
  error(status: number, message: string): Script;
  inStreamError: string;
}

export const PROTOCOLS: Protocol[] = [
  {
    name: 'openai',
    path: '/v1/chat/completions',
    provider: (upstream, limits) => new OpenAiProvider({ baseUrl: `${upstream.url}/v1`, apiKey: KEY, ...limits }),
    text: (text) => openai.text(text),
    tools: openai.toolCalls,
    twoWords: [openai.word('Hello'), openai.word(' there')],
    usage: { promptTokens: 11, completionTokens: 7, counted: false },
    error: (status, message) => openai.error(status, message),
    inStreamError: 'data: {"error":{"message":"overloaded at https://inner.example/x","type":"server_error"}}\n\n',
  },
  {
    name: 'anthropic',
    path: '/v1/messages',
    provider: (upstream, limits) => new AnthropicProvider({ baseUrl: upstream.url, apiKey: KEY, ...limits }),
    text: (text) => anthropic.text(text),
    tools: anthropic.toolUse,
    twoWords: [anthropic.start(), anthropic.word('Hello'), anthropic.word(' there')],
    usage: { promptTokens: 20, completionTokens: 9, counted: false },
    error: (status, message) => anthropic.error(status, 'some_error', message),
    inStreamError: anthropic.event('error', {
      error: { type: 'overloaded_error', message: 'overloaded at https://inner.example/x' },
    }),
  },
];

export const REQUEST: ChatRequest = { model: 'm', messages: [{ role: 'user', content: 'hi' }] };

export interface Collected {
  text: string;
  calls: { id?: string; name: string; args: string }[];
  finish: string | undefined;
  usage: TokenUsage | undefined;
  chunks: ProviderChunk[];
  error: unknown;
}

/** Reads a stream to its end or its error, as a client would put it together. */
export async function collect(provider: Provider, request = REQUEST, signal = new AbortController().signal): Promise<Collected> {
  const out: Collected = { text: '', calls: [], finish: undefined, usage: undefined, chunks: [], error: undefined };
  try {
    for await (const chunk of provider.stream(request, signal)) {
      out.chunks.push(chunk);
      out.usage = chunk.usage ?? out.usage;
      const choice = JSON.parse(chunk.json).choices[0];
      out.text += choice?.delta?.content ?? '';
      out.finish = choice?.finish_reason ?? out.finish;
      for (const call of choice?.delta?.tool_calls ?? []) {
        out.calls[call.index] ??= { id: call.id, name: '', args: '' };
        const built = out.calls[call.index];
        if (!built) continue;
        built.name += call.function.name ?? '';
        built.args += call.function.arguments ?? '';
      }
    }
  } catch (error) {
    out.error = error;
  }
  return out;
}
