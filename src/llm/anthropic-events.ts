import { chunk, usageChunk, type Delta, type OpenAiUsage } from './chunk.js';
import type { ProviderChunk, TokenUsage } from './provider.js';
import { inStreamError } from './upstream-error.js';

/**
 * An event of Anthropic's stream (https://docs.anthropic.com/en/docs/build-with-claude/streaming), as much of it as is looked
 * at.
 */
export interface AnthropicEvent {
  type?: string;
  index?: number;
  message?: { id?: string; model?: string; usage?: AnthropicUsage };
  content_block?: ContentBlock;
  delta?: { type?: string; text?: string; partial_json?: string; thinking?: string; stop_reason?: string | null };
  usage?: AnthropicUsage;
  error?: unknown;
}

interface ContentBlock {
  type?: string;
  id?: string;
  name?: string;
  text?: string;
  thinking?: string;
  input?: unknown;
}

/** `input_tokens` leaves out what was read from or written to the cache. Figures of later events are totals, not additions. */
export interface AnthropicUsage {
  input_tokens?: number | null;
  output_tokens?: number | null;
  cache_read_input_tokens?: number | null;
  cache_creation_input_tokens?: number | null;
}

const FINISH_REASONS: Record<string, string> = {
  end_turn: 'stop',
  stop_sequence: 'stop',
  pause_turn: 'stop',
  max_tokens: 'length',
  model_context_window_exceeded: 'length',
  tool_use: 'tool_calls',
  refusal: 'content_filter',
};

/** Turns the events of one answer into OpenAI chunks, in order. Events and fields it does not know are skipped. */
export class AnthropicEvents {
  readonly #secrets: readonly string[];
  #head: { id?: string; created: number; model: string };
  #usage: AnthropicUsage = {};
  /** Content block index -> its place among the tool calls, and whether any arguments came. */
  readonly #calls = new Map<number, { index: number; some: boolean; input: unknown }>();
  /** A stop reason came: the answer is whole. */
  finished = false;
  /** `message_stop` came: nothing follows. */
  ended = false;

  constructor(model: string, secrets: readonly string[]) {
    this.#secrets = secrets;
    this.#head = { created: Math.floor(Date.now() / 1000), model };
  }

  chunks(event: AnthropicEvent): ProviderChunk[] {
    switch (event.type) {
      case 'message_start':
        return this.#start(event.message ?? {});
      case 'content_block_start':
        return this.#blockStart(event.index ?? 0, event.content_block ?? {});
      case 'content_block_delta':
        return this.#blockDelta(event.index ?? 0, event.delta ?? {});
      case 'content_block_stop':
        return this.#blockStop(event.index ?? 0);
      case 'message_delta':
        return this.#messageDelta(event);
      case 'message_stop':
        this.ended = true;
        return [];
      case 'error':
        throw inStreamError(event.error, this.#secrets);
      default:
        return [];
    }
  }

  /** The chunk with the figures, as `include_usage` asks for; none where the upstream gave no figures. */
  last(): ProviderChunk[] {
    const usage = this.#tokenUsage();
    if (!usage) return [];
    const figures: OpenAiUsage = {
      prompt_tokens: usage.promptTokens,
      completion_tokens: usage.completionTokens,
      total_tokens: usage.promptTokens + usage.completionTokens,
      prompt_tokens_details: {
        cached_tokens: this.#usage.cache_read_input_tokens ?? 0,
        cache_write_tokens: this.#usage.cache_creation_input_tokens ?? 0,
      },
    };
    return [{ json: JSON.stringify(usageChunk(this.#head, figures)), text: '', usage }];
  }

  #start(message: { id?: string; model?: string; usage?: AnthropicUsage }): ProviderChunk[] {
    this.#head = { id: message.id, created: this.#head.created, model: message.model ?? this.#head.model };
    this.#learn(message.usage);
    const [opening] = this.#delta({ role: 'assistant', content: '' }, '');
    const usage = this.#tokenUsage();
    // Known already, so that a call that breaks off still has the provider's count of its prompt.
    return opening ? [usage ? { ...opening, usage } : opening] : [];
  }

  #blockStart(block: number, content: ContentBlock): ProviderChunk[] {
    if (content.type === 'text' && content.text) return this.#delta({ content: content.text }, content.text);
    if (content.type === 'thinking' && content.thinking)
      return this.#delta({ reasoning_content: content.thinking }, content.thinking);
    if (content.type !== 'tool_use') return [];
    const index = this.#calls.size;
    this.#calls.set(block, { index, some: false, input: content.input });
    const name = content.name ?? '';
    return this.#delta({ tool_calls: [{ index, id: content.id, type: 'function', function: { name, arguments: '' } }] }, name);
  }

  #blockDelta(
    block: number,
    { type, text, thinking, partial_json: part }: NonNullable<AnthropicEvent['delta']>,
  ): ProviderChunk[] {
    if (type === 'text_delta' && text) return this.#delta({ content: text }, text);
    if (type === 'thinking_delta' && thinking) return this.#delta({ reasoning_content: thinking }, thinking);
    const call = this.#calls.get(block);
    if (type !== 'input_json_delta' || !part || !call) return [];
    call.some = true;
    return this.#arguments(call.index, part);
  }

  /**
   * A tool without arguments sends none, where OpenAI sends `{}`; some servers give the whole input at the start of the
   * block.
   */
  #blockStop(block: number): ProviderChunk[] {
    const call = this.#calls.get(block);
    return call && !call.some ? this.#arguments(call.index, JSON.stringify(call.input ?? {})) : [];
  }

  #messageDelta({ delta, usage }: AnthropicEvent): ProviderChunk[] {
    this.#learn(usage);
    const reason = delta?.stop_reason;
    if (!reason || this.finished) return [];
    this.finished = true;
    return [
      {
        json: JSON.stringify(chunk(this.#head, { index: 0, delta: {}, finish_reason: FINISH_REASONS[reason] ?? 'stop' })),
        text: '',
      },
    ];
  }

  #arguments(index: number, part: string): ProviderChunk[] {
    return this.#delta({ tool_calls: [{ index, function: { arguments: part } }] }, part);
  }

  #delta(delta: Delta, text: string): ProviderChunk[] {
    return [{ json: JSON.stringify(chunk(this.#head, { index: 0, delta, finish_reason: null })), text }];
  }

  #learn(usage: AnthropicUsage | undefined): void {
    for (const [field, value] of Object.entries(usage ?? {})) {
      if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= 1e9)
        this.#usage[field as keyof AnthropicUsage] = value;
    }
  }

  #tokenUsage(): TokenUsage | undefined {
    const {
      input_tokens: input,
      output_tokens: output,
      cache_read_input_tokens: read,
      cache_creation_input_tokens: write,
    } = this.#usage;
    if (input == null || output == null) return undefined;
    return { promptTokens: input + (read ?? 0) + (write ?? 0), completionTokens: output, counted: false };
  }
}

/** A message that came in one piece (an upstream that ignored `stream`) as the events that would have brought it. */
export function eventsOfMessage(message: unknown): AnthropicEvent[] {
  const whole = message as {
    type?: string;
    content?: ContentBlock[];
    stop_reason?: string;
    usage?: AnthropicUsage;
    id?: string;
    model?: string;
  };
  if (whole.type === 'error') return [whole];
  if (!Array.isArray(whole.content)) return [];
  const blocks = whole.content.flatMap((block, index): AnthropicEvent[] => [
    { type: 'content_block_start', index, content_block: block },
    { type: 'content_block_stop', index },
  ]);
  return [
    { type: 'message_start', message: whole },
    ...blocks,
    { type: 'message_delta', delta: { stop_reason: whole.stop_reason ?? 'end_turn' }, usage: whole.usage },
    { type: 'message_stop' },
  ];
}
