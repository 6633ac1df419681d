import http2, { type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2';
import type { Socket } from 'node:net';
import { AppError, messageOf, NotSent } from '../lib/errors.js';
import { Bucket } from '../lib/bucket.js';
import { exchange } from './exchange.js';
import type { LinkLimits } from './limits.js';
import { type Cost, CostMeter, FRAMING_FACTOR, FREE_PIECES, TINY_BYTES } from './meter.js';
import type { Link, LinkIdentity, LinkRequest, LinkResponse } from './link.js';

export interface ConnectionEvents {
  /** The peer has shown that it speaks HTTP/2. */
  onUp(): void;
  /** No request can be made any more. Comes once, and only after `onUp`. */
  onDown(reason: string): void;
  /** A tiny piece of payload came: counted at once, since ten thousand of them fit into one read of the socket. */
  onTiny(): void;
  /** The peer broke the protocol in a way that ended the session, after it was up or before. */
  onViolation(reason: string, wasUp: boolean): void;
  /** The connection is over, whether it was ever up or not. */
  onClosed(): void;
}

/** Bytes that one request of Berth's may cost in answer without carrying payload: headers, window updates, acknowledgements. */
const REQUEST_OVERHEAD_BYTES = 2048;

/** Ends of a session that only its peer can bring about: nghttp2's own errors, and floods of frames out of place. */
const VIOLATIONS = new Set(['ERR_HTTP2_ERROR', 'ERR_HTTP2_TOO_MANY_INVALID_FRAMES']);

/** What a large piece costs to pass on, next to an empty one. */
const BYTES_PER_PIECE = 4096;

/** A link over one connection that an instance dialled: Berth is its HTTP/2 client. */
export class LinkConnection implements Link {
  readonly instanceId: string;
  readonly deploymentId: string;
  userId: string;
  readonly #socket: Socket;
  readonly #limits: LinkLimits;
  readonly #events: ConnectionEvents;
  readonly #session: ClientHttp2Session;
  readonly #streams = new Set<ClientHttp2Stream>();
  #uses = 0;
  #usedMs = performance.now();
  readonly #pieces: Bucket;
  readonly #cost = new CostMeter();
  #held: (() => void)[] = [];
  #delivered = 0;
  #allowance = 0;
  #state: 'opening' | 'up' | 'down' = 'opening';
  #reason: string | undefined;
  #watched = true;
  #pingDueMs: number;
  #pingSentMs: number | undefined;
  #timer: NodeJS.Timeout | undefined;

  /** Takes over a connection whose 101 has been written; `head` is what came along with the upgrade. */
  constructor(identity: LinkIdentity, socket: Socket, head: Buffer, limits: LinkLimits, events: ConnectionEvents) {
    this.instanceId = identity.instanceId;
    this.deploymentId = identity.deploymentId;
    this.userId = identity.userId;
    this.#socket = socket;
    this.#limits = limits;
    this.#events = events;
    this.#pieces = new Bucket(limits.pieceBurst, limits.piecesPerS);
    this.#pingDueMs = performance.now() + limits.pingEveryMs;
    if (head.length > 0) socket.unshift(head);
    // The HTTP server left it half open at the peer's end; HTTP/2 knows no such thing and would never notice.
    socket.allowHalfOpen = false;
    this.#session = http2.connect('http://berth', { createConnection: () => socket, ...sessionOptions(limits) });
    this.#timer = setTimeout(() => this.close('the peer does not speak HTTP/2'), limits.handshakeMs);
    this.#session.once('remoteSettings', () => this.#onSettings());
    this.#session.once('goaway', (code) => this.#onGoaway(code));
    this.#session.on('error', (error: NodeJS.ErrnoException) => this.#onError(error));
    this.#session.once('close', () => this.#onClose());
  }

  get closed(): boolean {
    return this.#state !== 'up' || this.#session.closed || this.#session.destroyed;
  }

  /** Whether somebody uses the instance: a request that is not upkeep is in flight, or was since then (by `performance.now()`). */
  isInUse(sinceMs: number): boolean {
    return this.#uses > 0 || this.#usedMs >= sinceMs;
  }

  /** The instance was nobody's and is that user's from now on. */
  assign(userId: string): void {
    this.userId = userId;
  }

  /** What the peer sent, and what it was entitled to: payload with its framing, and what Berth's own requests bring with them. */
  takeCost(): Cost {
    let waiting = 0;
    for (const stream of this.#streams) waiting += stream.readableLength;
    return this.#cost.take(this.#socket.bytesRead, (this.#delivered + waiting) * FRAMING_FACTOR + this.#allowance);
  }

  async request(request: LinkRequest): Promise<LinkResponse> {
    if (this.closed) throw new NotSent('the link to the instance is down');
    request.signal?.throwIfAborted();
    if (this.#streams.size >= this.#limits.maxStreams) {
      throw new AppError('unavailable', `the instance is busy with ${this.#streams.size} requests`, { retryAfterS: 1 });
    }
    const stream = this.#openStream(request);
    if (!request.isUpkeep) this.#countUse(stream);
    this.#allowance += REQUEST_OVERHEAD_BYTES;
    let pieces = 0;
    return exchange(stream, request, {
      maxHeaderBytes: this.#limits.maxHeaderBytes,
      arrived: (bytes, release) => this.#arrived(bytes, ++pieces, release),
      cut: () => (this.#allowance += this.#limits.windowBytes),
      isLost: () => this.#session.destroyed,
    });
  }

  close(reason: string): void {
    this.#reason ??= reason;
    this.#down();
    this.#session.destroy();
    this.#socket.destroy();
  }

  /** A frozen instance cannot answer pings; while it is frozen none are sent. */
  pauseWatch(): void {
    this.#watched = false;
    this.#pingSentMs = undefined;
  }

  /** Watches again, beginning with a ping at once. */
  resumeWatch(): void {
    this.#watched = true;
    this.#pingDueMs = performance.now();
  }

  /** One beat of the watch. `lateMs` is how long this process itself was held up: no peer is blamed for that. */
  watch(nowMs: number, lateMs: number): void {
    const held = this.#held;
    this.#held = [];
    for (const release of held) release();
    if (this.#state !== 'up' || !this.#watched) return;
    if (this.#pingSentMs === undefined) {
      if (nowMs >= this.#pingDueMs) this.#ping(nowMs);
      return;
    }
    this.#pingSentMs += lateMs;
    if (nowMs - this.#pingSentMs > this.#limits.pingAnswerMs) this.close('no answer to a ping');
  }

  #openStream(request: LinkRequest): ClientHttp2Stream {
    const headers = { ...request.headers, ':method': request.method, ':path': request.path };
    try {
      const stream = this.#session.request(headers, { endStream: request.body === undefined });
      this.#streams.add(stream);
      stream.once('close', () => this.#onStreamClose(stream));
      return stream;
    } catch (error) {
      // Also when the connection has run out of stream ids: the instance dials anew.
      this.close(`no new stream: ${messageOf(error)}`);
      throw new NotSent('the link to the instance is down', { cause: error });
    }
  }

  #countUse(stream: ClientHttp2Stream): void {
    this.#uses += 1;
    this.#usedMs = performance.now();
    stream.once('close', () => {
      this.#uses -= 1;
      this.#usedMs = performance.now();
    });
  }

  #onStreamClose(stream: ClientHttp2Stream): void {
    this.#delivered += stream.readableLength;
    this.#streams.delete(stream);
  }

  #arrived(bytes: number, piece: number, release: () => void): boolean {
    this.#delivered += bytes;
    if (piece <= FREE_PIECES) return true;
    if (bytes < TINY_BYTES) this.#events.onTiny();
    if (this.#pieces.borrow(1 + bytes / BYTES_PER_PIECE) === 0) return true;
    this.#held.push(release);
    return false;
  }

  #ping(nowMs: number): void {
    this.#pingSentMs = nowMs;
    this.#session.ping((error) => {
      if (error) return;
      this.#pingSentMs = undefined;
      this.#pingDueMs = performance.now() + this.#limits.pingEveryMs;
    });
  }

  #onError(error: NodeJS.ErrnoException): void {
    this.#reason ??= messageOf(error);
    if (VIOLATIONS.has(error.code ?? '')) this.#events.onViolation(messageOf(error), this.#state === 'up');
  }

  #onSettings(): void {
    clearTimeout(this.#timer);
    if (this.#state !== 'opening') return;
    this.#state = 'up';
    this.#events.onUp();
  }

  #onGoaway(code: number): void {
    // Not a farewell but a refusal: the instance would keep a connection that it no longer serves, and not dial anew.
    if (code !== http2.constants.NGHTTP2_NO_ERROR) return this.close(`the instance ended the connection with error ${code}`);
    this.#reason ??= 'the instance is going away';
    this.#down();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.close('the instance did not finish in time'), this.#limits.drainMs);
    this.#session.close();
  }

  #onClose(): void {
    clearTimeout(this.#timer);
    this.#reason ??= 'the connection was closed';
    this.#down();
    this.#socket.destroy();
    this.#events.onClosed();
  }

  #down(): void {
    const wasUp = this.#state === 'up';
    this.#state = 'down';
    if (wasUp) this.#events.onDown(this.#reason ?? '');
  }
}

/** Node's http2 knows these too; its types do not name them yet. */
interface StrictSessionOptions extends http2.ClientSessionOptions {
  maxSessionInvalidFrames: number;
  maxSessionRejectedStreams: number;
}

function sessionOptions(limits: LinkLimits): StrictSessionOptions {
  return {
    settings: { enablePush: false, initialWindowSize: limits.windowBytes, maxHeaderListSize: limits.maxHeaderBytes },
    maxReservedRemoteStreams: 0,
    maxHeaderListPairs: 64,
    maxOutstandingPings: 2,
    // Room for a piece of body and a window on each of 256 streams.
    maxSessionMemory: 32,
    maxSessionInvalidFrames: 10,
    maxSessionRejectedStreams: 10,
  };
}
