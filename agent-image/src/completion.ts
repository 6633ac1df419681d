import type { ModelError } from './errors.js';
import type { EventSink } from './sse.js';
import type { ToolCall } from './answer.js';
import type { TurnEnd, TurnOutput } from './turn.js';

const MOST_PREVIEW_CHARS = 500;
/** Berth gives up on an event of more than 1 MB. */
const MOST_EVENT_CHARS = 100_000;

/** A turn's output as `chat.completion.chunk` events, and as `tool_call` and `tool_result` events where Berth asked for them. */
export class StreamedCompletion implements TurnOutput {
  readonly #events: EventSink;
  readonly #withTools: boolean;
  readonly #id: string;
  readonly #head: string;
  /** The last event before what the model is saying now. */
  #before = 0;

  constructor(events: EventSink, options: { turnId: string; model: string; withTools: boolean }) {
    this.#events = events;
    this.#withTools = options.withTools;
    const created = Math.floor(Date.now() / 1000);
    this.#id = JSON.stringify(`chatcmpl_${options.turnId}`);
    // All chunks of an answer share their head; building it once is most of the cost of a delta.
    this.#head = `{"id":${this.#id},"object":"chat.completion.chunk","created":${created},"model":${JSON.stringify(options.model)},"choices":[`;
  }

  begin(): void {
    this.#events.open();
    void this.#choice('{"role":"assistant"}', null);
  }

  asks(): void {
    this.#before = this.#events.last ?? 0;
  }

  restarted({ step, attempt }: { step: number; attempt: number }): Promise<void> | undefined {
    return this.#events.send(JSON.stringify({ step, attempt, void_after: this.#before }), 'restarted');
  }

  text(delta: string): Promise<void> | undefined {
    if (delta.length > MOST_EVENT_CHARS) return this.#inPieces(delta);
    return this.#choice(`{"content":${JSON.stringify(delta)}}`, null);
  }

  toolCall({ id, name, arguments: args }: ToolCall): Promise<void> | undefined {
    if (!this.#withTools) return undefined;
    return this.#events.send(JSON.stringify({ id, name, arguments: args.slice(0, MOST_EVENT_CHARS) }), 'tool_call');
  }

  toolResult(result: Parameters<TurnOutput['toolResult']>[0]): Promise<void> | undefined {
    if (!this.#withTools) return undefined;
    const { id, name, ok, text, durationMs } = result;
    return this.#events.send(
      JSON.stringify({ id, name, ok, preview: text.slice(0, MOST_PREVIEW_CHARS), duration_ms: durationMs }),
      'tool_result',
    );
  }

  finish({ finish, usage, clientCalls }: TurnEnd, includeUsage: boolean): void {
    if (clientCalls.length > 0) void this.#choice(JSON.stringify({ tool_calls: clientCalls.map(callOf) }), null);
    void this.#choice('{}', finish);
    if (includeUsage) void this.#events.send(`${this.#head}],"usage":${JSON.stringify(usage)}}`);
    this.#events.end();
  }

  fail(error: ErrorBody): void {
    void this.#events.send(JSON.stringify(error));
    this.#events.end();
  }

  async #inPieces(text: string): Promise<void> {
    // By code points, so that no character is torn in two.
    const points = Array.from(text);
    for (let i = 0; i < points.length; i += MOST_EVENT_CHARS / 2)
      await this.text(points.slice(i, i + MOST_EVENT_CHARS / 2).join(''));
  }

  #choice(delta: string, finish: string | null): Promise<void> | undefined {
    return this.#events.send(`${this.#head}{"index":0,"delta":${delta},"finish_reason":${JSON.stringify(finish)}}]}`);
  }
}

/** A turn's output kept for one whole answer. */
export class WholeCompletion implements TurnOutput {
  #content = '';

  text(delta: string): undefined {
    this.#content += delta;
  }

  asks(): undefined {}

  restarted(): undefined {}

  toolCall(): undefined {}

  toolResult(): undefined {}

  body({ finish, usage, clientCalls }: TurnEnd, options: { turnId: string; model: string }): object {
    const calls =
      clientCalls.length > 0
        ? { tool_calls: clientCalls.map(({ id, name, arguments: args }) => functionCall(id, name, args)) }
        : {};
    const content = this.#content === '' && clientCalls.length > 0 ? null : this.#content;
    return {
      id: `chatcmpl_${options.turnId}`,
      object: 'chat.completion',
      created: Math.floor(Date.now() / 1000),
      model: options.model,
      choices: [{ index: 0, message: { role: 'assistant', content, ...calls }, finish_reason: finish }],
      usage,
    };
  }
}

/** OpenAI's error object. */
export interface ErrorBody {
  error: { message: string; type: string; code?: string };
}

export function modelErrorBody({ message, type, code }: ModelError): ErrorBody {
  return { error: { message, type, ...(code === undefined ? {} : { code }) } };
}

function callOf({ id, name, arguments: args }: ToolCall, index: number): object {
  return { index, ...functionCall(id, name, args) };
}

function functionCall(id: string, name: string, args: string): object {
  return { id, type: 'function', function: { name, arguments: args } };
}
