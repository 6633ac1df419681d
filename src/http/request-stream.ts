import type { IncomingMessage } from 'node:http';
import { type Duplex, Readable } from 'node:stream';
import type { Context } from 'hono';
import { AppError } from '../lib/errors.js';
import { PACE, type Pace } from './pace.js';
import type { Env } from './request-state.js';
import { ClientGone } from './sse.js';
import { countPassed } from './streamed-garbage.js';

/** Connections whose request may take longer than the server's `requestTimeout`: a stream has a pace to keep instead. */
const unhurried = new WeakSet<Duplex>();

/** Whether the server's own time-out of whole requests is not meant for what runs on that connection. */
export function isUnhurried(socket: Duplex): boolean {
  return unhurried.has(socket);
}

/** Called by the guard of a route that streams its body, before its handler waits for anything. */
export function allowTime(c: Context<Env>): void {
  const { incoming, outgoing } = c.env;
  if (!incoming || !outgoing) return;
  const { socket } = incoming;
  unhurried.add(socket);
  outgoing.once('close', () => unhurried.delete(socket));
}

/** The body of the request as it comes, for routes with `streamsBody`. Nothing is read before somebody reads. */
export function bodyStreamOf(c: Context<Env>): RequestStream {
  const { incoming } = c.env;
  if (!incoming) throw new AppError('internal', 'a streamed body needs a connection');
  return new RequestStream(incoming, c.env.berth.services.pace ?? PACE);
}

/** Aborts when the client goes before it has its answer. (Asking the Request for its signal would begin to read its body.) */
export function clientSignalOf(c: Context<Env>): AbortSignal {
  const { outgoing } = c.env;
  const abort = new AbortController();
  if (!outgoing) return abort.signal;
  const gone = () => {
    if (!outgoing.writableFinished) abort.abort(new ClientGone());
  };
  if (outgoing.destroyed) gone();
  else outgoing.once('close', gone);
  return abort.signal;
}

/**
 * Reads a request without owning it: destroying this stream leaves the connection alone, so that an answer can still be given while
 * the client sends. Ends in an error where the client breaks off (`ClientGone`) or is too slow to be waited for.
 */
export class RequestStream extends Readable {
  /** What `Content-Length` says. */
  readonly lengthBytes: number | undefined;
  readonly #incoming: IncomingMessage;
  readonly #pace: Pace;
  #timer: NodeJS.Timeout | undefined;
  #came = 0;
  /** Somewhere in this window nobody wanted more: its pace was not the client's. */
  #wasHeld = false;

  constructor(incoming: IncomingMessage, pace: Pace) {
    super({ highWaterMark: 64 * 1024 });
    const declared = incoming.headers['content-length'];
    this.lengthBytes = declared === undefined ? undefined : Number(declared);
    this.#incoming = incoming;
    this.#pace = pace;
    // Whoever reads learns of errors by reading; one that nobody reads must not end the process.
    this.on('error', () => {});
  }

  override _read(): void {
    if (this.#timer === undefined) this.#begin();
    else this.#incoming.resume();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#leave();
    done(error);
  }

  #begin(): void {
    const { windowMs } = this.#pace;
    this.#timer = setInterval(() => this.#judge(), windowMs);
    if (this.#incoming.destroyed && !this.#incoming.readableEnded) return void this.destroy(new ClientGone());
    this.#incoming.on('data', this.#onData).on('end', this.#onEnd).on('error', this.#onBreak).on('close', this.#onBreak);
  }

  #leave(): void {
    clearInterval(this.#timer);
    this.#incoming.off('data', this.#onData).off('end', this.#onEnd).off('error', this.#onBreak).off('close', this.#onBreak);
    if (!this.#incoming.readableEnded) this.#incoming.pause().on('error', () => {});
  }

  #judge(): void {
    const { windowMs, windowBytes } = this.#pace;
    const isSlow = !this.#wasHeld && this.#came < windowBytes;
    this.#came = 0;
    this.#wasHeld = this.#incoming.isPaused();
    if (!isSlow) return;
    const message = `the body comes too slowly: less than ${windowBytes} bytes in ${windowMs / 1000} s`;
    this.destroy(new AppError('request_timeout', message));
  }

  readonly #onData = (chunk: Buffer): void => {
    this.#came += chunk.length;
    countPassed(chunk.length);
    if (this.push(chunk)) return;
    this.#wasHeld = true;
    this.#incoming.pause();
  };

  readonly #onEnd = (): void => {
    if (!this.#incoming.complete) return this.#onBreak();
    this.#leave();
    this.push(null);
  };

  readonly #onBreak = (): void => void this.destroy(new ClientGone());
}
