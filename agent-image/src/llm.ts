import { Agent, request as httpRequest, type IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { createParser } from 'eventsource-parser';
import { ModelError } from './errors.js';
import type { Credentials } from './credentials.js';

export interface ModelCall {
  agentId: string;
  turnId: string;
  /** W3C's header, as the turn came with it: the call is part of the same trace. */
  traceparent: string | undefined;
  /** The request body, JSON, in pieces. */
  body: readonly (string | Buffer)[];
  /** The socket over which the turn was asked for: its Berth process is the one most likely to be alive. */
  socket: string | undefined;
  /** 1, or more where earlier ones were lost with the Berth process that they ran through. */
  attempt: number;
  /** How long to look for a Berth process that takes it. */
  patienceMs: number;
  signal: AbortSignal;
}

/** What one chunk of the model's answer brings; most carry one of these. */
export interface ModelDelta {
  text?: string;
  calls?: { index: number; id?: string; name?: string; arguments?: string }[];
  finish?: string;
  usage?: Usage;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
}

/** Below the number of calls that Berth answers one instance at a time; those beyond it wait their turn here instead of being refused. */
const MAX_CONNECTIONS = 40;
const MAX_RETRIES = 3;
const LONGEST_WAIT_S = 2;
const SILENCE_MS = 300_000;
const MAX_ERROR_BYTES = 64 * 1024;

/** Asks models through Berth's LLM gateway, over whichever socket answers. */
export class ModelClient {
  readonly #sockets: (preferred?: string) => string[];
  readonly #credentials: Credentials;
  readonly #agent = new Agent({ keepAlive: true, maxSockets: MAX_CONNECTIONS, maxFreeSockets: 16 });

  constructor(sockets: (preferred?: string) => string[], credentials: Credentials) {
    this.#sockets = sockets;
    this.#credentials = credentials;
  }

  /**
   * Streams one answer. Throws `ModelError` when it cannot begin, breaks off, or is an error itself; throws the signal's reason when
   * that aborts. Reads only as fast as it is consumed.
   */
  async *stream(call: ModelCall): AsyncGenerator<ModelDelta, void, void> {
    const response = await this.#open(call);
    let finished = false;
    let done = false;
    try {
      for await (const data of eventData(response)) {
        done = data === '[DONE]';
        if (done) break;
        const delta = readChunk(data);
        if (delta.finish !== undefined) finished = true;
        yield delta;
      }
    } catch (error) {
      if (call.signal.aborted) throw call.signal.reason;
      throw error instanceof ModelError ? error : connectionLost();
    } finally {
      // Read to its end, the connection serves the next call; left in the midst of an answer, it is of no more use.
      if (done) response.resume();
      else response.destroy();
    }
    if (!done && !finished) throw new ModelError('The answer of the model was cut off.', { code: 'cut' });
  }

  /** Gives idle connections back. */
  close(): void {
    this.#agent.destroy();
  }

  /** The response to the call, status 200. A call that reached no Berth process is tried on the others for a while. */
  async #open(call: ModelCall): Promise<IncomingMessage> {
    const giveUpAt = Date.now() + call.patienceMs;
    for (let attempt = 1; ; attempt++) {
      for (const socket of this.#sockets(call.socket)) {
        const response = await this.#try(socket, call, attempt);
        if (response) return response;
      }
      if (Date.now() >= giveUpAt) throw new ModelError('The LLM gateway cannot be reached.', { code: 'unreachable' });
      await sleep(100, undefined, { signal: call.signal }).catch(() => undefined);
      call.signal.throwIfAborted();
    }
  }

  /** undefined where nobody took the call, so that it may be made again elsewhere. */
  async #try(socket: string, call: ModelCall, attempt: number): Promise<IncomingMessage | undefined> {
    const token = this.#credentials.token;
    const response = await this.#post(socket, call, token);
    if (response?.statusCode === 200) return response;
    if (response === undefined) return undefined;
    const error = await readError(response);
    const tokenChanged = response.statusCode === 401 && (this.#credentials.refresh() || this.#credentials.token !== token);
    if (tokenChanged) return undefined;
    const waitS = Number(response.headers['retry-after'] ?? Number.NaN);
    // Too many calls at this moment; where the wait is to be longer, the one who asked shall decide.
    if (response.statusCode !== 429 || attempt > MAX_RETRIES || !(waitS <= LONGEST_WAIT_S)) throw error;
    await sleep(waitS * 1000 * (0.5 + Math.random()), undefined, { signal: call.signal }).catch(() => undefined);
    call.signal.throwIfAborted();
    return undefined;
  }

  #post(socket: string, call: ModelCall, token: string): Promise<IncomingMessage | undefined> {
    return new Promise((resolve, reject) => {
      const request = httpRequest({
        socketPath: socket,
        method: 'POST',
        path: '/v1/chat/completions',
        agent: this.#agent,
        signal: call.signal,
        headers: headersOf(call, token),
      });
      request.setTimeout(SILENCE_MS, () =>
        request.destroy(new ModelError('The model did not answer in time.', { code: 'stalled' })),
      );
      request.once('response', resolve);
      request.on('error', (error: NodeJS.ErrnoException) => {
        if (call.signal.aborted) reject(call.signal.reason);
        else if (error instanceof ModelError) reject(error);
        else if (neverTaken(error, request.reusedSocket)) resolve(undefined);
        else reject(connectionLost());
      });
      // Corked until the end, so that head and body leave together.
      request.cork();
      for (const piece of call.body) request.write(piece);
      request.end();
    });
  }
}

function connectionLost(): ModelError {
  return new ModelError('The connection to the model was lost.', { code: 'cut', isLost: true });
}

function headersOf(call: ModelCall, token: string): Record<string, string | number> {
  return {
    host: 'berth',
    authorization: `Bearer ${token}`,
    'content-type': 'application/json',
    'content-length': call.body.reduce((sum, piece) => sum + Buffer.byteLength(piece), 0),
    accept: 'text/event-stream',
    'x-berth-agent': call.agentId,
    'x-berth-turn': call.turnId,
    ...(call.traceparent === undefined ? {} : { traceparent: call.traceparent }),
    ...(call.attempt > 1 ? { 'x-berth-attempt': String(call.attempt) } : {}),
  };
}

/** Nobody listened, or a kept connection had been closed by the other end before it saw this request. */
function neverTaken(error: NodeJS.ErrnoException, reused: boolean): boolean {
  if (error.code === 'ECONNREFUSED' || error.code === 'ENOENT') return true;
  return reused && (error.code === 'ECONNRESET' || error.code === 'EPIPE');
}

async function* eventData(response: IncomingMessage): AsyncGenerator<string, void, void> {
  response.setEncoding('utf8');
  let ready: string[] = [];
  const parser = createParser({ onEvent: ({ data }) => ready.push(data) });
  for await (const piece of response.iterator({ destroyOnReturn: false }) as AsyncIterable<string>) {
    parser.feed(piece);
    const batch = ready;
    ready = [];
    yield* batch;
  }
}

interface Chunk {
  choices?: { delta?: { content?: unknown; tool_calls?: ToolCallDelta[] }; finish_reason?: unknown }[];
  usage?: Partial<Usage> | null;
  error?: { message?: unknown; type?: unknown; code?: unknown };
}

interface ToolCallDelta {
  index?: number;
  id?: string;
  function?: { name?: string; arguments?: string };
}

/** Reads one `chat.completion.chunk`. Throws `ModelError` when it is an error, or no JSON object at all. */
export function readChunk(data: string): ModelDelta {
  const chunk: Chunk | undefined = parseObject(data);
  if (!chunk) throw new ModelError('The model sent something that cannot be read.', { code: 'garbage' });
  if (chunk.error) throw errorOf(chunk.error);
  const delta: ModelDelta = {};
  const choice = Array.isArray(chunk.choices) ? chunk.choices[0] : undefined;
  if (typeof choice?.delta?.content === 'string' && choice.delta.content !== '') delta.text = choice.delta.content;
  if (Array.isArray(choice?.delta?.tool_calls)) delta.calls = choice.delta.tool_calls.map(readCall);
  if (typeof choice?.finish_reason === 'string') delta.finish = choice.finish_reason;
  if (chunk.usage) delta.usage = readUsage(chunk.usage);
  return delta;
}

function readCall(call: ToolCallDelta, position: number): NonNullable<ModelDelta['calls']>[number] {
  const read: NonNullable<ModelDelta['calls']>[number] = {
    index: Number.isInteger(call.index) ? (call.index as number) : position,
  };
  if (typeof call.id === 'string') read.id = call.id;
  if (typeof call.function?.name === 'string') read.name = call.function.name;
  if (typeof call.function?.arguments === 'string') read.arguments = call.function.arguments;
  return read;
}

function readUsage(given: Partial<Usage>): Usage {
  const count = (value: unknown) => (typeof value === 'number' && value >= 0 ? value : 0);
  const prompt = count(given.prompt_tokens);
  const completion = count(given.completion_tokens);
  return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: count(given.total_tokens) || prompt + completion };
}

async function readError(response: IncomingMessage): Promise<ModelError> {
  response.setEncoding('utf8');
  let body = '';
  try {
    for await (const piece of response as AsyncIterable<string>) {
      body += piece;
      if (body.length > MAX_ERROR_BYTES) break;
    }
  } catch {
    body = ''; // The status alone has to do.
  }
  const answer: Chunk | undefined = parseObject(body);
  const given = answer?.error;
  if (given) return errorOf(given, response.statusCode);
  return new ModelError(`The LLM gateway answered with status ${response.statusCode}.`, { status: response.statusCode });
}

function errorOf(given: NonNullable<Chunk['error']>, status?: number): ModelError {
  const word = (value: unknown) => (typeof value === 'string' && value !== '' ? value : undefined);
  const code = word(given.code);
  return new ModelError(word(given.message) ?? 'The model failed.', {
    type: word(given.type) ?? 'api_error',
    code,
    status,
    // What Berth says as it stops.
    isLost: code === 'stopping',
  });
}

function parseObject(json: string): object | undefined {
  try {
    const value: unknown = JSON.parse(json);
    return typeof value === 'object' && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}
