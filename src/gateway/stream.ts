import type { Readable } from 'node:stream';
import { createParser, type EventSourceMessage } from 'eventsource-parser';
import { AppError } from '../lib/errors.js';

export interface TurnUsage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
}

/** What a gateway says in the course of a turn. `chunk` is OpenAI's, parsed once; its parts are read by whoever needs them. */
export type GatewayEvent = {
  /** Its number, where the turn is kept; from 1 on, without a gap. */
  seq?: number;
} & (
  | { type: 'chunk'; chunk: GatewayChunk }
  | { type: 'tool_call'; call: { id: string; name: string; arguments: string } }
  | { type: 'tool_result'; result: { id: string; name: string; ok: boolean; preview: string; duration_ms: number } }
  /** A model call was lost and is made again: what came after that event is void. */
  | { type: 'restarted'; restart: { step: number; attempt: number; void_after: number } }
  | { type: 'error'; error: { message: string; type: string; code: string | null } }
);

/** The parts of a `chat.completion.chunk` that Berth reads, checked. An agent gives one choice, the last chunk none. */
export interface GatewayChunk {
  choices: { delta: { role?: string; content?: string }; finish_reason: string | null }[];
  usage: TurnUsage | undefined;
}

/** What a gateway may take of this process in one turn. Tests shorten them. */
export interface StreamLimits {
  /** Longest single event: an instance that never ends its line is cut off here. */
  eventChars: number;
  /** Silence after which a turn is given up: model calls have shorter limits of their own, tools are bounded by the gateway. */
  silenceMs: number;
  /** Chunks in a row that bring nothing at all. */
  emptyChunks: number;
  /** A whole turn, tools included. */
  turnMs: number;
  turnBytes: number;
}

export const DEFAULT_STREAM_LIMITS: StreamLimits = {
  eventChars: 1024 * 1024,
  silenceMs: 300_000,
  emptyChunks: 1_000,
  turnMs: 3_600_000,
  turnBytes: 256 * 1024 * 1024,
};

/**
 * Reads a gateway's SSE until `[DONE]`. Throws `upstream_error` where it ends before, is garbage, has a line without end or goes on without
 * saying anything, `timeout` after long silence and when the turn takes too long; ending the iteration early resets the stream, which
 * the gateway sees as a disconnect.
 */
export async function* readGatewayStream(
  body: Readable,
  limits: StreamLimits = DEFAULT_STREAM_LIMITS,
): AsyncGenerator<GatewayEvent> {
  const pending: EventSourceMessage[] = [];
  const parser = createParser({
    onEvent: (event) => pending.push(event),
    maxBufferSize: limits.eventChars,
    onError: () => pending.push(GARBAGE),
  });
  const decoder = new TextDecoder();
  const watch = new Watch(body, limits);
  let finished = false;
  try {
    for await (const bytes of body.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      watch.pause(bytes.length);
      parser.feed(decoder.decode(bytes, { stream: true }));
      for (const event of pending.splice(0)) {
        if (event.data === '[DONE]') {
          finished = true;
          return;
        }
        const parsed = parseEvent(event);
        if (!parsed) continue;
        if (event.id !== undefined) parsed.seq = count(Number(event.id));
        watch.note(parsed);
        yield parsed;
      }
      watch.resume();
    }
    throw new AppError('upstream_error', 'the agent stopped in the midst of its answer');
  } finally {
    watch.end();
    if (finished) letEnd(body);
    else body.destroy();
  }
}

/** What comes after the last event. */
const END_WITHIN_MS = 1_000;

/**
 * Lets a stream that has said all come to its own end. A reset would do, but an HTTP/2 server counts resets, and after a thousand of them it
 * takes its client for an attacker and hangs up.
 */
function letEnd(body: Readable): void {
  const timer = setTimeout(() => body.destroy(), END_WITHIN_MS).unref();
  body.once('close', () => clearTimeout(timer));
  body.on('data', () => undefined).resume();
}

/** Holds one stream to its limits. Time that the reader takes is not the gateway's silence. */
class Watch {
  readonly #limits: StreamLimits;
  readonly #silence: NodeJS.Timeout;
  readonly #whole: NodeJS.Timeout;
  #paused = false;
  #bytes = 0;
  #empty = 0;

  constructor(body: Readable, limits: StreamLimits) {
    this.#limits = limits;
    const minutes = Math.round(limits.turnMs / 60_000);
    this.#silence = setTimeout(() => {
      if (this.#paused) this.#silence.refresh();
      else body.destroy(new AppError('timeout', `the agent said nothing for ${Math.round(limits.silenceMs / 1000)} s`));
    }, limits.silenceMs);
    this.#whole = setTimeout(
      () => body.destroy(new AppError('timeout', `the turn took longer than ${minutes} minutes`)),
      limits.turnMs,
    );
  }

  pause(bytes: number): void {
    this.#paused = true;
    this.#bytes += bytes;
    if (this.#bytes > this.#limits.turnBytes)
      throw new AppError('upstream_error', `the agent sent more than ${this.#limits.turnBytes} bytes`);
  }

  resume(): void {
    this.#paused = false;
    this.#silence.refresh();
  }

  note(event: GatewayEvent): void {
    if (event.type !== 'chunk' || !isEmpty(event.chunk)) this.#empty = 0;
    else if (++this.#empty > this.#limits.emptyChunks)
      throw new AppError('upstream_error', 'the agent goes on without saying anything');
  }

  end(): void {
    clearTimeout(this.#silence);
    clearTimeout(this.#whole);
  }
}

function isEmpty({ choices, usage }: GatewayChunk): boolean {
  const choice = choices[0];
  return !choice?.delta.content && !choice?.finish_reason && !usage;
}

const GARBAGE: EventSourceMessage = { event: 'garbage', data: '', id: undefined };

function parseEvent(event: EventSourceMessage): GatewayEvent | undefined {
  if (event.event === 'garbage') throw notUnderstood();
  const value = parseObject(event.data);
  if (event.event === undefined || event.event === 'message') return chunkOrError(value);
  if (event.event === 'tool_call') {
    return {
      type: 'tool_call',
      call: { id: text(value.id, 200), name: text(value.name, 200), arguments: text(value.arguments, 100_000) },
    };
  }
  if (event.event === 'tool_result') {
    const { id, name, ok, preview, duration_ms: durationMs } = value;
    return {
      type: 'tool_result',
      result: {
        id: text(id, 200),
        name: text(name, 200),
        ok: ok === true,
        preview: text(preview, 500),
        duration_ms: count(durationMs),
      },
    };
  }
  if (event.event === 'restarted') {
    const { step, attempt, void_after: voidAfter } = value;
    return { type: 'restarted', restart: { step: count(step), attempt: count(attempt), void_after: count(voidAfter) } };
  }
  // A gateway newer than this Berth may say more.
  return undefined;
}

function chunkOrError(value: Record<string, unknown>): GatewayEvent {
  if (typeof value.error !== 'object' || value.error === null) return { type: 'chunk', chunk: checkedChunk(value) };
  const error = value.error as Record<string, unknown>;
  return {
    type: 'error',
    error: {
      message: text(error.message, 500),
      type: text(error.type, 100) || 'api_error',
      code: typeof error.code === 'string' ? text(error.code, 100) : null,
    },
  };
}

function checkedChunk({ choices, usage }: Record<string, unknown>): GatewayChunk {
  if (!Array.isArray(choices) || choices.length > 1) throw notUnderstood();
  return { choices: choices.map(checkedChoice), usage: isObject(usage) ? checkedUsage(usage) : undefined };
}

function checkedChoice(choice: unknown): GatewayChunk['choices'][number] {
  if (!isObject(choice)) throw notUnderstood();
  const { delta = {}, finish_reason: finish = null } = choice;
  if (!isObject(delta) || !(finish === null || typeof finish === 'string')) throw notUnderstood();
  const { role, content } = delta;
  if (!isTextOrNothing(role) || !isTextOrNothing(content)) throw notUnderstood();
  const checked: GatewayChunk['choices'][number] = { delta: {}, finish_reason: finish === null ? null : text(finish, 50) };
  if (role) checked.delta.role = 'assistant';
  if (content) checked.delta.content = content;
  return checked;
}

function checkedUsage(usage: Record<string, unknown>): TurnUsage {
  const prompt = count(usage['prompt_tokens']);
  const completion = count(usage['completion_tokens']);
  return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isTextOrNothing(value: unknown): value is string | null | undefined {
  return value === undefined || value === null || typeof value === 'string';
}

function parseObject(data: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(data);
  } catch (cause) {
    throw notUnderstood(cause);
  }
  if (!isObject(value)) throw notUnderstood();
  return value;
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
