import type { TokenUsage } from './provider.js';

/** What Berth looks at in an OpenAI `chat.completion.chunk`; everything else in it is passed on untouched. */
export interface CompletionChunk {
  id?: string;
  created?: number;
  model?: string;
  choices?: ChunkChoice[] | null;
  usage?: OpenAiUsage | null;
  error?: unknown;
}

export interface ChunkChoice {
  index?: number;
  delta?: Delta | null;
  finish_reason?: string | null;
}

export interface Delta {
  role?: string;
  content?: string | null;
  /** The de facto name for a model's visible reasoning. */
  reasoning_content?: string | null;
  reasoning?: string | null;
  refusal?: string | null;
  tool_calls?: ToolCallDelta[] | null;
}

export interface ToolCallDelta {
  index: number;
  id?: string;
  type?: string;
  function?: { name?: string; arguments?: string };
}

export interface OpenAiUsage {
  prompt_tokens?: number;
  completion_tokens?: number;
  total_tokens?: number;
  [detail: string]: unknown;
}

/** The fields that all chunks of one answer share. */
export interface ChunkHead {
  id?: string;
  created?: number;
  model?: string;
}

export function chunk(head: ChunkHead, choice: ChunkChoice): CompletionChunk & { object: string } {
  return { ...head, object: 'chat.completion.chunk', choices: [choice] };
}

/** The last chunk of a stream with `include_usage`: no choices, only figures. */
export function usageChunk(head: ChunkHead, usage: OpenAiUsage): CompletionChunk & { object: string } {
  return { ...head, object: 'chat.completion.chunk', choices: [], usage };
}

/** All that the model wrote in a chunk: words, reasoning, refusals, names and arguments of tool calls. */
export function textOfChunk(parsed: CompletionChunk): string {
  let text = '';
  for (const choice of parsed.choices ?? []) {
    const delta = choice?.delta;
    if (!delta) continue;
    for (const part of [delta.content, delta.reasoning_content, delta.reasoning, delta.refusal]) {
      if (typeof part === 'string') text += part;
    }
    if (!Array.isArray(delta.tool_calls)) continue;
    for (const call of delta.tool_calls) text += (call?.function?.name ?? '') + (call?.function?.arguments ?? '');
  }
  return text;
}

/** The upstream's own figures, or undefined where they are not whole numbers that make sense. */
export function usageOf(usage: OpenAiUsage): TokenUsage | undefined {
  const { prompt_tokens: promptTokens, completion_tokens: completionTokens } = usage;
  if (!isCount(promptTokens) || !isCount(completionTokens ?? 0)) return undefined;
  return { promptTokens, completionTokens: completionTokens ?? 0, counted: false };
}

/** Bounded, since the figures are added up and priced. */
function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= 1e9;
}
