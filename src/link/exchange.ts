import http2, { type ClientHttp2Stream, type IncomingHttpHeaders } from 'node:http2';
import { Readable } from 'node:stream';
import { AppError, NotSent } from '../lib/errors.js';
import type { LinkRequest, LinkResponse } from './link.js';

/** What a link learns from its exchanges: payload that arrived, and whether its pieces come too fast. */
export interface ExchangeMeter {
  readonly maxHeaderBytes: number;
  /** Counts a piece of payload; false asks the exchange to hold its stream back until `release` is called. */
  arrived(bytes: number, release: () => void): boolean;
  /** Berth cut the stream itself: what is still on its way is not the peer's fault. */
  cut(): void;
  /** The connection itself is gone. */
  isLost(): boolean;
}

/** Larger bodies are handed to HTTP/2 piece by piece, as the peer takes them. */
const PIECE_BYTES = 64 * 1024;

const { NGHTTP2_CANCEL, NGHTTP2_NO_ERROR, NGHTTP2_REFUSED_STREAM } = http2.constants;

/** Carries one request over its HTTP/2 stream: sends the body, waits for the headers, hands over the response's body. */
export function exchange(stream: ClientHttp2Stream, request: LinkRequest, meter: ExchangeMeter): Promise<LinkResponse> {
  return new Promise((resolve, reject) => {
    let body: ResponseBody | undefined;
    const settle = (error: unknown) => {
      clearTimeout(timer);
      request.signal?.removeEventListener('abort', onAbort);
      if (body) body.finish(error);
      else reject(error);
    };
    const cut = (error: unknown) => {
      meter.cut();
      settle(error);
      cancel(stream);
    };
    const onAbort = () => cut(request.signal?.reason);
    const timer = setTimeout(() => {
      cut(new AppError('timeout', `the instance did not answer within ${request.timeoutMs} ms`));
    }, request.timeoutMs);

    request.signal?.addEventListener('abort', onAbort, { once: true });
    stream.once('response', (headers) => {
      clearTimeout(timer);
      if (headerBytes(headers) > meter.maxHeaderBytes) {
        cut(new AppError('unavailable', 'the instance answered with headers that are too large'));
        return;
      }
      body = new ResponseBody(stream, meter);
      resolve({ status: Number(headers[':status']), headers: plainHeaders(headers), body });
    });
    // Errors also close the stream; what they say is kept as the cause.
    let cause: unknown;
    stream.on('error', (error) => (cause = error));
    stream.once('close', () => settle(closedEarly(stream, body, cause)));
    send(stream, request.body, cut);
  });
}

/** A response's body. Reading it is what lets the instance write more; destroying it resets the stream. */
class ResponseBody extends Readable {
  readonly #stream: ClientHttp2Stream;
  readonly #meter: ExchangeMeter;
  #ended = false;
  #held = false;

  constructor(stream: ClientHttp2Stream, meter: ExchangeMeter) {
    super();
    this.#stream = stream;
    this.#meter = meter;
    // Whoever reads learns of errors by reading; an unread body must not end the process.
    this.on('error', () => {});
    stream.on('data', (chunk: Buffer) => this.#onData(chunk));
    stream.once('end', () => this.#onEnd());
  }

  /** The stream is over: an error unless the whole body had come. */
  finish(error: unknown): void {
    if (this.#ended || this.destroyed) return;
    this.destroy(error instanceof Error ? error : new AppError('unavailable', String(error)));
  }

  override _read(): void {
    if (!this.#held) this.#stream.resume();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    if (!this.#ended) {
      this.#meter.cut();
      cancel(this.#stream);
    }
    done(error);
  }

  #onData(chunk: Buffer): void {
    this.#held = !this.#meter.arrived(chunk.length, () => this.#release());
    const wantsMore = this.push(chunk);
    if (!wantsMore || this.#held) this.#stream.pause();
  }

  #release(): void {
    this.#held = false;
    if (this.readableLength < this.readableHighWaterMark) this.#stream.resume();
  }

  #onEnd(): void {
    // `end` also comes for a stream that was reset in the midst of its body, and when the session is destroyed.
    if (this.#stream.rstCode !== NGHTTP2_NO_ERROR || this.#stream.aborted || this.#meter.isLost()) return;
    this.#ended = true;
    this.push(null);
    if (!this.#stream.writableFinished) this.#stream.close(NGHTTP2_NO_ERROR);
  }
}

function send(stream: ClientHttp2Stream, body: LinkRequest['body'], cut: (error: unknown) => void): void {
  if (body === undefined) return;
  if (typeof body === 'string' || Buffer.isBuffer(body)) {
    const bytes = Buffer.from(body);
    if (bytes.length <= PIECE_BYTES) return void stream.end(bytes);
    // All of it at once would count against the session's memory: every stream of the link would then fail.
    return send(stream, Readable.from(pieces(bytes), { objectMode: false }), cut);
  }
  // Not `pipeline`: it destroys the stream from inside `close` (on `aborted`), after which Node 20 writes empty DATA frames for
  // ever and the whole process hangs.
  body.once('error', cut);
  stream.once('close', () => body.destroy());
  body.pipe(stream);
}

function* pieces(bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) yield bytes.subarray(at, at + PIECE_BYTES);
}

/** A peer refuses streams that it has not looked at, as when it is going away (RFC 9113, 8.7). */
function closedEarly(stream: ClientHttp2Stream, body: Readable | undefined, cause: unknown): AppError {
  if (!body && stream.rstCode === NGHTTP2_REFUSED_STREAM) return new NotSent('the instance is going away', { cause });
  return new AppError('unavailable', 'the link to the instance was lost', { cause });
}

/**
 * Resets the stream at once, also when unread data waits in it: `close` alone would wait for a reader. A body that is still being sent must not
 * look as if it had ended: `close` would end it properly before the reset, and a file of which a part had come would be taken for whole.
 */
function cancel(stream: ClientHttp2Stream): void {
  if (stream.destroyed) return;
  if (stream.writableEnded) stream.close(NGHTTP2_CANCEL);
  stream.destroy();
}

function headerBytes(headers: IncomingHttpHeaders): number {
  return Object.entries(headers).reduce((sum, [name, value]) => sum + name.length + String(value).length, 0);
}

function plainHeaders(headers: IncomingHttpHeaders): Record<string, string> {
  const out: Record<string, string> = {};
  for (const [name, value] of Object.entries(headers)) {
    if (name.startsWith(':') || value === undefined) continue;
    out[name] = Array.isArray(value) ? value.join(', ') : value;
  }
  return out;
}
