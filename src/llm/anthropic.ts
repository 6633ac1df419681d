import type { Answer } from './answer.js';
import { AnthropicEvents, eventsOfMessage, type AnthropicEvent } from './anthropic-events.js';
import { anthropicRequest } from './anthropic-request.js';
import { ProviderError, type ChatRequest, type Provider, type ProviderChunk } from './provider.js';
import { Transport, type TransportLimits } from './transport.js';

export interface AnthropicOptions extends Partial<TransportLimits> {
  /** Default `https://api.anthropic.com`. */
  baseUrl?: string;
  apiKey: string;
  /** `max_tokens` where the request names none; Anthropic demands one. Default 8192. */
  defaultMaxTokens?: number;
}

/** Anthropic's Messages API, spoken to as if it were OpenAI's chat completions. */
export class AnthropicProvider implements Provider {
  readonly name = 'anthropic';
  readonly #transport: Transport;
  readonly #defaultMaxTokens: number;

  constructor(options: AnthropicOptions) {
    this.#defaultMaxTokens = options.defaultMaxTokens ?? 8192;
    this.#transport = new Transport({
      ...options,
      baseUrl: options.baseUrl ?? 'https://api.anthropic.com',
      headers: { 'x-api-key': options.apiKey, 'anthropic-version': '2023-06-01' },
      secrets: [options.apiKey],
    });
  }

  models(): string[] {
    return [];
  }

  async *stream(request: ChatRequest, signal: AbortSignal): AsyncIterable<ProviderChunk> {
    const answer = await this.#transport.post('v1/messages', anthropicRequest(request, this.#defaultMaxTokens), signal);
    let complete = false;
    try {
      if (answer.type === 'html') throw notAnAnswer();
      const events = new AnthropicEvents(request.model, this.#transport.secrets);
      if (answer.type === 'json') {
        for (const event of eventsOfMessage(parse(await answer.text(), false))) yield* events.chunks(event);
        if (!events.finished) throw notAnAnswer();
      } else yield* streamed(answer, events);
      complete = true;
    } finally {
      answer.close(complete);
    }
  }
}

/** Ends at `message_stop`. An answer whose stop reason came is whole even where the connection is lost after it. */
async function* streamed(answer: Answer, events: AnthropicEvents): AsyncGenerator<ProviderChunk> {
  let some = false;
  while (!events.ended) {
    const batch = await answer.events().catch((error: unknown) => {
      if (events.finished && error instanceof ProviderError && (error.kind === 'cut' || error.kind === 'stalled'))
        return undefined;
      throw error;
    });
    if (batch === undefined) break;
    for (const { data } of batch) {
      if (data === '' || events.ended) continue;
      some = true;
      for (const chunk of events.chunks(parse(data, answer.ended))) yield chunk;
    }
  }
  if (!events.finished) throw some ? new ProviderError('cut', "The provider's answer ended before its end") : notAnAnswer();
  yield* events.last();
}

function parse(data: string, atEnd: boolean): AnthropicEvent {
  try {
    const parsed = JSON.parse(data) as AnthropicEvent;
    if (typeof parsed === 'object' && parsed !== null) return parsed;
  } catch (error) {
    if (atEnd) throw new ProviderError('cut', "The provider's answer ended before its end", { cause: error });
    throw notAnAnswer(error);
  }
  throw notAnAnswer();
}

function notAnAnswer(cause?: unknown): ProviderError {
  return new ProviderError('upstream', 'The provider answered with something that is not a completion', { cause });
}
