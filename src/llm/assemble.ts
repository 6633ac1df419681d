import type { ChunkChoice, CompletionChunk, OpenAiUsage, ToolCallDelta } from './chunk.js';
import { ProviderError, type ProviderChunk, type TokenUsage } from './provider.js';

interface Building {
  message: Record<string, unknown> & { role: string; content: string | null };
  calls: Map<number, { id: string; type: string; function: { name: string; arguments: string } }>;
  finish: string | null;
}

const MAX_CHOICES = 128;

/** Puts the chunks of one answer together into the `chat.completion` that a request without `stream` gets. */
export class Assembler {
  readonly #maxLength: number;
  readonly #choices = new Map<number, Building>();
  #head: { id?: string; created?: number; model?: string } = {};
  #usage: OpenAiUsage | undefined;
  #length = 0;

  constructor(maxLength: number) {
    this.#maxLength = maxLength;
  }

  add(chunk: ProviderChunk): void {
    this.#length += chunk.json.length;
    if (this.#length > this.#maxLength)
      throw new ProviderError('upstream', 'The answer is too long to be sent in one piece; use stream');
    const parsed = JSON.parse(chunk.json) as CompletionChunk;
    this.#head = {
      id: this.#head.id ?? parsed.id,
      created: this.#head.created ?? parsed.created,
      model: this.#head.model ?? parsed.model,
    };
    if (parsed.usage) this.#usage = parsed.usage;
    for (const choice of parsed.choices ?? []) this.#addChoice(choice);
  }

  completion(usage: TokenUsage): object {
    const choices = [...this.#choices.entries()].sort(([a], [b]) => a - b).map(([index, built]) => finished(index, built));
    const counted = { prompt_tokens: usage.promptTokens, completion_tokens: usage.completionTokens };
    const total = { ...counted, total_tokens: usage.promptTokens + usage.completionTokens };
    return { ...this.#head, object: 'chat.completion', choices, usage: this.#usage ?? total };
  }

  #addChoice(choice: ChunkChoice): void {
    const index = choice.index ?? 0;
    let built = this.#choices.get(index);
    if (!built) {
      if (this.#choices.size >= MAX_CHOICES)
        throw new ProviderError('upstream', 'The provider sent more choices than are accepted');
      built = { message: { role: 'assistant', content: null }, calls: new Map(), finish: null };
      this.#choices.set(index, built);
    }
    built.finish = choice.finish_reason ?? built.finish;
    const { role, tool_calls: calls, ...rest } = choice.delta ?? {};
    if (role) built.message.role = role;
    for (const [field, value] of Object.entries(rest)) append(built.message, field, value);
    for (const call of calls ?? []) addCall(built, call);
  }
}

/** Text grows; anything else replaces what was there. */
function append(message: Record<string, unknown>, field: string, value: unknown): void {
  if (value === null || value === undefined || field === '__proto__') return;
  const before = message[field];
  message[field] = typeof value === 'string' && typeof before === 'string' ? before + value : value;
}

function addCall(built: Building, delta: ToolCallDelta): void {
  const index = delta.index ?? 0;
  const call = built.calls.get(index) ?? { id: '', type: 'function', function: { name: '', arguments: '' } };
  built.calls.set(index, call);
  call.id ||= delta.id ?? '';
  call.function.name ||= delta.function?.name ?? '';
  call.function.arguments += delta.function?.arguments ?? '';
}

function finished(index: number, { message, calls, finish }: Building): object {
  if (calls.size === 0) return { index, message: { ...message, content: message.content ?? '' }, finish_reason: finish };
  const ordered = [...calls.entries()].sort(([a], [b]) => a - b).map(([, call]) => call);
  return { index, message: { ...message, content: message.content || null, tool_calls: ordered }, finish_reason: finish };
}
