import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import type { Context } from 'hono';
import { AppError, messageOf } from '../lib/errors.js';
import { errorAnswer, publicError } from './errors.js';
import type { Env, RequestState } from './request-state.js';

const KEEP_ALIVE_MS = 15_000;
const STALLED_MS = 120_000;
const HEADERS = { 'Content-Type': 'text/event-stream; charset=utf-8', 'Cache-Control': 'no-cache, no-transform', 'X-Accel-Buffering': 'no' };

/** The reason of a stream's abort signal when its client has gone: no error of anybody's. */
export class ClientGone extends Error {
  constructor() {
    super('the client has gone');
    this.name = 'ClientGone';
  }
}

export interface StreamOptions {
  keepAliveMs?: number;
  /** A client that takes nothing for so long is cut off. */
  stalledMs?: number;
}

/** Text to the client, as it is. */
export interface TextSink {
  /** Aborts when the client goes, at once. */
  readonly signal: AbortSignal;
  /**
   * Writes; where that filled the client's buffers, returns a promise that settles when there is room. Await it before the next
   * write. Throws, or rejects with, the signal's reason once the client has gone.
   */
  write(text: string): Promise<void> | undefined;
}

export interface ServerEvent {
  event: string;
  /** Sent as JSON. */
  data: unknown;
  id?: string;
}

/** Typed events to the client. */
export interface EventSink {
  readonly signal: AbortSignal;
  /** Sends one event; to be awaited like `TextSink.write`. */
  send(event: ServerEvent): Promise<void> | undefined;
}

/**
 * Answers with server-sent events for as long as `produce` runs. The first byte goes out at once; a comment follows whenever 15 s
 * passed in silence. What `produce` throws becomes an event `error` whose data is the usual error answer, and the stream ends.
 */
export function streamEvents(c: Context<Env>, produce: (sink: EventSink) => Promise<void>, options: StreamOptions = {}): Promise<Response> {
  const run = async (out: TextSink) => {
    const greeting = out.write(': stream\n\n');
    if (greeting) await greeting;
    await produce({ signal: out.signal, send: (event) => out.write(eventText(event)) });
  };
  const failure = (error: AppError) => eventText({ event: 'error', data: errorAnswer(error, c.env.berth.requestId) });
  return streamText(c, run, { ...options, failure });
}

/** One event as it goes over the wire. JSON has no line breaks, so one `data` line is enough. */
export function eventText({ event, data, id }: ServerEvent): string {
  const head = id === undefined ? `event: ${event}\n` : `id: ${id}\nevent: ${event}\n`;
  return `${head}data: ${JSON.stringify(data)}\n\n`;
}

/**
 * The same with nothing said but what `produce` writes (and keep-alive comments): for streams whose wire format is another's.
 * `failure` makes the last words out of what `produce` threw.
 */
export async function streamText(
  c: Context<Env>,
  produce: (out: TextSink) => Promise<void>,
  options: StreamOptions & { failure: (error: AppError) => string },
): Promise<Response> {
  const { outgoing, berth: state } = c.env;
  if (c.req.method === 'HEAD') return new Response(null, { headers: HEADERS });
  if (!outgoing) throw new AppError('internal', 'a stream needs a connection');
  state.streamed = { status: 200, headers: HEADERS, broken: false };
  const stream = new OutgoingStream(outgoing, state, options);
  try {
    await produce(stream);
    state.streamCopy?.complete();
  } catch (thrown) {
    if (!stream.signal.aborted) stream.fail(options.failure(noted(state, thrown)));
    else if (thrown !== stream.signal.reason) state.services.log.debug({ request_id: state.requestId }, `after the client had gone: ${messageOf(thrown)}`);
  } finally {
    state.streamed.broken = stream.signal.aborted;
    stream.end();
  }
  return alreadySent();
}

function noted(state: RequestState, thrown: unknown): AppError {
  state.error = publicError(thrown);
  return state.error;
}

/** Writes to Node's response, past Hono's and node-server's web streams: the fastest way, and the one where back pressure is real. */
class OutgoingStream implements TextSink {
  readonly signal: AbortSignal;
  readonly #outgoing: ServerResponse;
  readonly #state: RequestState;
  readonly #abort = new AbortController();
  readonly #stalledMs: number;
  readonly #keepAlive: NodeJS.Timeout;
  #silent = true;
  #room: Promise<void> | undefined;

  constructor(outgoing: ServerResponse, state: RequestState, { keepAliveMs = KEEP_ALIVE_MS, stalledMs = STALLED_MS }: StreamOptions) {
    this.signal = this.#abort.signal;
    this.#outgoing = outgoing;
    this.#state = state;
    this.#stalledMs = stalledMs;
    outgoing.writeHead(200, HEADERS);
    outgoing.on('close', () => this.#abort.abort(new ClientGone()));
    outgoing.on('error', () => this.#abort.abort(new ClientGone()));
    if (outgoing.destroyed) this.#abort.abort(new ClientGone());
    else outgoing.flushHeaders();
    this.#keepAlive = setInterval(() => this.#breakSilence(), keepAliveMs);
  }

  write(text: string): Promise<void> | undefined {
    if (this.signal.aborted) throw this.signal.reason;
    this.#silent = false;
    this.#state.streamCopy?.add(text);
    return this.#outgoing.write(text) ? undefined : (this.#room ??= this.#untilRoom());
  }

  fail(lastWords: string): void {
    this.#outgoing.write(lastWords);
  }

  end(): void {
    clearInterval(this.#keepAlive);
    this.#outgoing.end();
  }

  async #untilRoom(): Promise<void> {
    const stalled = setTimeout(() => this.#outgoing.destroy(), this.#stalledMs);
    try {
      await once(this.#outgoing, 'drain', { signal: this.signal });
    } catch {
      throw this.signal.reason;
    } finally {
      clearTimeout(stalled);
      this.#room = undefined;
    }
  }

  #breakSilence(): void {
    if (this.#silent && !this.#outgoing.writableNeedDrain && !this.signal.aborted) this.#outgoing.write(': keep-alive\n\n');
    this.#silent = true;
  }
}

/** Tells node-server that the answer is out. Asking for `body` takes the fast path away from it, which would not look at the header. */
function alreadySent(): Response {
  const response = new Response(null, { headers: { 'x-hono-already-sent': 'true' } });
  void response.body;
  return response;
}
