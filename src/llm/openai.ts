import type { Answer } from './answer.js';
import { chunk, textOfChunk, usageChunk, usageOf, type ChunkChoice, type CompletionChunk, type ToolCallDelta } from './chunk.js';
import { ProviderError, type ChatRequest, type Provider, type ProviderChunk } from './provider.js';
import { Transport, type TransportLimits } from './transport.js';
import { inStreamError } from './upstream-error.js';

export interface OpenAiOptions extends Partial<TransportLimits> {
  /** Default `https://api.openai.com/v1`; any server that speaks chat completions. */
  baseUrl?: string;
  /** Absent for local servers that want none. */
  apiKey?: string;
  /** First part of its model names; default `openai`. */
  name?: string;
}

/** Any upstream that speaks OpenAI's chat completions. Fields it does not know are passed on as they are. */
export class OpenAiProvider implements Provider {
  readonly name: string;
  readonly #transport: Transport;

  constructor(options: OpenAiOptions) {
    this.name = options.name ?? 'openai';
    this.#transport = new Transport({
      ...options,
      baseUrl: options.baseUrl ?? 'https://api.openai.com/v1',
      headers: options.apiKey ? { authorization: `Bearer ${options.apiKey}` } : {},
      secrets: options.apiKey ? [options.apiKey] : [],
    });
  }

  models(): string[] {
    return [];
  }

  async *stream(request: ChatRequest, signal: AbortSignal): AsyncIterable<ProviderChunk> {
    const options = request['stream_options'] as object | undefined;
    const body = { ...request, stream: true, stream_options: { ...options, include_usage: true } };
    const answer = await this.#transport.post('chat/completions', body, signal);
    let complete = false;
    try {
      if (answer.type === 'html') throw notAnAnswer();
      if (answer.type === 'json') yield* this.#wholeAnswer(await answer.text());
      else yield* this.#streamedAnswer(answer);
      complete = true;
    } finally {
      answer.close(complete);
    }
  }

  /**
   * Ends at `[DONE]`. An answer that was finished (a `finish_reason` came) is whole even where the connection is lost after
   * it.
   */
  async *#streamedAnswer(answer: Answer): AsyncGenerator<ProviderChunk> {
    let finished = false;
    let some = false;
    for (;;) {
      const events = await answer.events().catch((error: unknown) => {
        if (finished && isLoss(error)) return undefined;
        throw error;
      });
      if (events === undefined) break;
      for (const { data } of events) {
        if (data === '[DONE]') return;
        if (data === '') continue;
        const parsed = this.#parse(data, answer.ended);
        some = true;
        finished ||= parsed.choices?.some((choice) => choice.finish_reason != null) ?? false;
        // A line break between JSON's tokens is legal in an event of several data lines, and would break ours.
        yield providerChunk(data.includes('\n') ? JSON.stringify(parsed) : data, parsed);
      }
    }
    if (!finished) throw some ? new ProviderError('cut', "The provider's answer ended before its end") : notAnAnswer();
  }

  #parse(data: string, atEnd: boolean): CompletionChunk {
    let parsed: CompletionChunk;
    try {
      parsed = JSON.parse(data) as CompletionChunk;
    } catch (error) {
      throw atEnd ? new ProviderError('cut', "The provider's answer ended before its end", { cause: error }) : notAnAnswer(error);
    }
    if (typeof parsed !== 'object' || parsed === null) throw notAnAnswer();
    if (parsed.error) throw inStreamError(parsed.error, this.#transport.secrets);
    if (parsed.choices != null && !Array.isArray(parsed.choices)) throw notAnAnswer();
    return parsed;
  }

  /** An upstream that ignored `stream` and sent one completion: the same in chunks. */
  *#wholeAnswer(text: string): Generator<ProviderChunk> {
    const whole = this.#parse(text, false);
    const choices = (whole.choices ?? []) as (ChunkChoice & { message?: Message })[];
    if (choices.length === 0) throw notAnAnswer();
    const head = { id: whole.id, created: whole.created, model: whole.model };
    for (const [position, choice] of choices.entries()) {
      const index = choice.index ?? position;
      const { tool_calls: calls, ...delta } = choice.message ?? {};
      const numbered = calls?.map((call, at) => ({ ...call, index: at }));
      const first = chunk(head, { index, delta: numbered ? { ...delta, tool_calls: numbered } : delta, finish_reason: null });
      yield providerChunk(JSON.stringify(first), first);
      yield providerChunk(
        JSON.stringify(chunk(head, { index, delta: {}, finish_reason: choice.finish_reason ?? 'stop' })),
        undefined,
      );
    }
    if (whole.usage) yield providerChunk(JSON.stringify(usageChunk(head, whole.usage)), whole);
  }
}

interface Message {
  role?: string;
  content?: string | null;
  tool_calls?: ToolCallDelta[] | null;
}

function providerChunk(json: string, parsed: CompletionChunk | undefined): ProviderChunk {
  const text = parsed ? textOfChunk(parsed) : '';
  const usage = parsed?.usage ? usageOf(parsed.usage) : undefined;
  return usage ? { json, text, usage } : { json, text };
}

function isLoss(error: unknown): boolean {
  return error instanceof ProviderError && (error.kind === 'cut' || error.kind === 'stalled');
}

function notAnAnswer(cause?: unknown): ProviderError {
  return new ProviderError('upstream', 'The provider answered with something that is not a completion', { cause });
}
