import type { Readable } from 'node:stream';
import { createParser, type EventSourceMessage } from 'eventsource-parser';
import { AppError } from '../lib/errors.js';

export interface TurnUsage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
}

/** What a gateway says in the course of a turn. `chunk` is OpenAI's, parsed once; its parts are read by whoever needs them. */
export type GatewayEvent =
  | { type: 'chunk'; chunk: GatewayChunk }
  | { type: 'tool_call'; call: { id: string; name: string; arguments: string } }
  | { type: 'tool_result'; result: { id: string; name: string; ok: boolean; preview: string; duration_ms: number } }
  | { type: 'error'; error: { message: string; type: string; code: string | null } };

/** The parts of a `chat.completion.chunk` that Berth reads; others pass through. */
export interface GatewayChunk {
  choices?: { index?: number; delta?: { role?: string; content?: string | null }; finish_reason?: string | null }[];
  usage?: TurnUsage | null;
  [field: string]: unknown;
}

/** Longest single event: an instance that never ends its line is cut off here. */
const EVENT_LIMIT_BYTES = 1024 * 1024;
/** Silence after which a turn is given up: model calls have shorter limits of their own, tools are bounded by the gateway. */
const SILENCE_LIMIT_MS = 300_000;

/**
 * Reads a gateway's SSE until `[DONE]`. Throws `upstream_error` where it ends before, is garbage, or has a line without end, `timeout` after
 * long silence; ending the iteration early resets the stream, which the gateway sees as a disconnect.
 */
export async function* readGatewayStream(body: Readable): AsyncGenerator<GatewayEvent> {
  const pending: EventSourceMessage[] = [];
  const parser = createParser({ onEvent: (event) => pending.push(event), maxBufferSize: EVENT_LIMIT_BYTES, onError: () => pending.push(GARBAGE) });
  const decoder = new TextDecoder();
  const silence = setTimeout(() => body.destroy(new AppError('timeout', 'the agent said nothing for too long')), SILENCE_LIMIT_MS);
  try {
    for await (const bytes of body as AsyncIterable<Buffer>) {
      silence.refresh();
      parser.feed(decoder.decode(bytes, { stream: true }));
      for (const event of pending.splice(0)) {
        if (event.data === '[DONE]') return;
        const parsed = parseEvent(event);
        if (parsed) yield parsed;
      }
    }
    throw new AppError('upstream_error', 'the agent stopped in the midst of its answer');
  } finally {
    clearTimeout(silence);
    body.destroy();
  }
}

const GARBAGE: EventSourceMessage = { event: 'garbage', data: '', id: undefined };

function parseEvent(event: EventSourceMessage): GatewayEvent | undefined {
  if (event.event === 'garbage') throw notUnderstood();
  const value = parseObject(event.data);
  if (event.event === undefined || event.event === 'message') return chunkOrError(value);
  if (event.event === 'tool_call') {
    return { type: 'tool_call', call: { id: text(value.id, 200), name: text(value.name, 200), arguments: text(value.arguments, 100_000) } };
  }
  if (event.event === 'tool_result') {
    const { id, name, ok, preview, duration_ms: durationMs } = value;
    return { type: 'tool_result', result: { id: text(id, 200), name: text(name, 200), ok: ok === true, preview: text(preview, 500), duration_ms: count(durationMs) } };
  }
  // A gateway newer than this Berth may say more.
  return undefined;
}

function chunkOrError(value: Record<string, unknown>): GatewayEvent {
  if (typeof value.error !== 'object' || value.error === null) return { type: 'chunk', chunk: checkedChunk(value) };
  const error = value.error as Record<string, unknown>;
  return {
    type: 'error',
    error: { message: text(error.message, 500), type: text(error.type, 100) || 'api_error', code: typeof error.code === 'string' ? text(error.code, 100) : null },
  };
}

function checkedChunk(value: Record<string, unknown>): GatewayChunk {
  const usage = value.usage as Record<string, unknown> | null | undefined;
  const chunk = value as GatewayChunk;
  if (!Array.isArray(chunk.choices)) throw notUnderstood();
  if (typeof usage === 'object' && usage !== null) {
    const prompt = count(usage.prompt_tokens);
    const completion = count(usage.completion_tokens);
    chunk.usage = { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion };
  }
  return chunk;
}

function parseObject(data: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(data);
  } catch (cause) {
    throw notUnderstood(cause);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw notUnderstood();
  return value as Record<string, unknown>;
}

function notUnderstood(cause?: unknown): AppError {
  return new AppError('upstream_error', "the agent's answer was not understood", { cause });
}

function text(value: unknown, limit: number): string {
  return typeof value === 'string' ? value.slice(0, limit) : '';
}

function count(value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0 ? Math.min(Math.round(value), 2_000_000_000) : 0;
}
