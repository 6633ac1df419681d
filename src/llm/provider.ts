/** A message as OpenAI's chat completions has it (https://platform.openai.com/docs/api-reference/chat). Extra fields pass through. */
export interface ChatMessage {
  role: 'system' | 'developer' | 'user' | 'assistant' | 'tool';
  content?: unknown;
  tool_calls?: { id: string; type: 'function'; function: { name: string; arguments: string } }[];
  tool_call_id?: string;
  name?: string;
}

/** The body of a chat completion, `model` already without its provider prefix. Unknown fields are passed to OpenAI-compatible upstreams. */
export interface ChatRequest {
  model: string;
  messages: ChatMessage[];
  tools?: unknown[];
  [field: string]: unknown;
}

/** Tokens of one call. `counted` is true where the provider gave no figures and Berth counted. */
export interface TokenUsage {
  promptTokens: number;
  completionTokens: number;
  counted: boolean;
}

/** One streamed piece: an OpenAI `chat.completion.chunk` as JSON text, and what Berth needs to know of it. */
export interface ProviderChunk {
  /** The chunk's JSON, one line, ready to be an SSE `data:` line. */
  json: string;
  /** Text the model wrote in this chunk, for counting where the provider gives no usage. */
  text: string;
  /** Present on the chunk that carries the provider's own figures. */
  usage?: TokenUsage;
}

/** An upstream model API. Adapters speak the upstream's protocol and yield OpenAI chunks, whatever the upstream. */
export interface Provider {
  /** First part of a model name: `openai` in `openai/gpt-5`. */
  readonly name: string;

  /** Model ids (without prefix) it is known to serve; may be empty where any is passed through. */
  models(): string[];

  /**
   * Streams one completion. Throws `ProviderError` before the first chunk or in the midst of the stream. Stops reading the upstream
   * and closes its connection when `signal` aborts. Pulls from upstream only as fast as it is consumed (backpressure).
   */
  stream(request: ChatRequest, signal: AbortSignal): AsyncIterable<ProviderChunk>;
}

export type ProviderErrorKind =
  | 'auth' // 401, 403: Berth's key is refused
  | 'rate_limited' // 429
  | 'bad_request' // 400, 404, 413, 422: the request is refused
  | 'upstream' // 5xx, garbage, connection refused
  | 'stalled' // nothing came for the stated time
  | 'cut'; // the stream ended before its end

/** What went wrong upstream, in words that may be shown to the tenant: never a key, never an address. */
export class ProviderError extends Error {
  readonly kind: ProviderErrorKind;
  readonly retryAfterS: number | undefined;

  constructor(kind: ProviderErrorKind, message: string, options: { cause?: unknown; retryAfterS?: number } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'ProviderError';
    this.kind = kind;
    this.retryAfterS = options.retryAfterS;
  }
}
