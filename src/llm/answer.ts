import type http from 'node:http';
import { StringDecoder } from 'node:string_decoder';
import { createParser, type EventSourceMessage, type EventSourceParser } from 'eventsource-parser';
import { ProviderError } from './provider.js';
import type { TransportLimits } from './transport.js';

/** How long an answer that is complete may take to end, so that its connection can be used again. */
const LEFTOVER_MS = 1_000;

/**
 * The body of an upstream's response, pulled piece by piece: bytes that nobody asks for stay in the kernel and stop the upstream.
 * Aborting the signal destroys the connection and makes the pending pull throw the signal's reason.
 */
export class Answer {
  readonly #request: http.ClientRequest;
  readonly #response: http.IncomingMessage;
  readonly #limits: TransportLimits;
  readonly #signal: AbortSignal;
  readonly #decoder = new StringDecoder('utf8');
  #parser: EventSourceParser | undefined;
  #events: EventSourceMessage[] = [];
  #received = 0;
  #sinceEvent = 0;
  #failure: unknown;
  /** Set once a bound is passed; thrown after the events that came before. */
  #tooLong: ProviderError | undefined;
  #ended = false;
  #wake: (() => void) | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(request: http.ClientRequest, response: http.IncomingMessage, limits: TransportLimits, signal: AbortSignal) {
    this.#request = request;
    this.#response = response;
    this.#limits = limits;
    this.#signal = signal;
    const cut = (error?: Error) => this.#fail(new ProviderError('cut', "The provider's answer was cut off", { cause: error }));
    response.on('readable', () => this.#wake?.());
    response.on('end', () => {
      this.#ended = true;
      this.#wake?.();
    });
    response.on('error', cut);
    response.on('close', () => (this.#ended ? undefined : cut()));
    request.on('error', cut);
    if (signal.aborted) this.#onAbort();
    else signal.addEventListener('abort', this.#onAbort, { once: true });
  }

  /** What the upstream says it sends: `html`, `json`, or `stream` for all else, since many servers mislabel their streams. */
  get type(): 'html' | 'json' | 'stream' {
    const type = this.#response.headers['content-type'] ?? '';
    if (/\bhtml\b/i.test(type)) return 'html';
    return /\bjson\b/i.test(type) && !/event-stream|ndjson/i.test(type) ? 'json' : 'stream';
  }

  /** Whether the body has come to its end: what was parsed last may be an event without its closing line. */
  get ended(): boolean {
    return this.#ended;
  }

  /** The next server-sent events, at least one; undefined at the end of the body. */
  async events(): Promise<EventSourceMessage[] | undefined> {
    this.#parser ??= createParser({
      maxBufferSize: this.#limits.maxEventBytes,
      onEvent: (event) => {
        this.#sinceEvent = 0;
        this.#events.push(event);
      },
      onComment: () => (this.#sinceEvent = 0),
      onError: (error) => {
        if (error.type === 'max-buffer-size-exceeded') this.#tooLong ??= tooLong('one event');
      },
    });
    while (this.#events.length === 0) {
      if (this.#tooLong) throw this.#tooLong;
      const piece = await this.#read();
      if (piece === undefined) {
        this.#parser.feed(`${this.#decoder.end()}\n\n`);
        if (this.#events.length === 0) return undefined;
        break;
      }
      this.#sinceEvent += piece.length;
      this.#parser.feed(this.#decoder.write(piece));
      if (this.#sinceEvent > this.#limits.maxEventBytes) this.#tooLong ??= tooLong('one event');
    }
    return this.#events.splice(0);
  }

  /** The whole body as text; cut at `maxBytes` when given, and whatever came so far once `timeoutMs` have passed. */
  async text(maxBytes?: number, timeoutMs?: number): Promise<string> {
    let out = '';
    let late = false;
    const timer = timeoutMs === undefined ? undefined : setTimeout(() => ((late = true), this.#wake?.()), timeoutMs);
    try {
      for (;;) {
        const piece = await this.#read(() => late);
        if (piece === undefined) return out + this.#decoder.end();
        out += this.#decoder.write(piece);
        if (maxBytes === undefined && out.length > this.#limits.maxEventBytes) throw tooLong('a plain answer');
        if (maxBytes !== undefined && out.length >= maxBytes) return out.slice(0, maxBytes);
      }
    } catch (error) {
      if (maxBytes !== undefined && !this.#signal.aborted) return out;
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Ends the call. Where the answer is `complete` its connection is kept for the next one, else it is closed at once. */
  close(complete = false): void {
    clearTimeout(this.#timer);
    this.#signal.removeEventListener('abort', this.#onAbort);
    if (this.#ended || this.#response.destroyed) return;
    if (!complete) {
      this.#request.destroy();
      return;
    }
    const timer = setTimeout(() => this.#request.destroy(), LEFTOVER_MS);
    this.#response.once('close', () => clearTimeout(timer));
    this.#response.removeAllListeners('readable');
    this.#response.resume();
  }

  readonly #onAbort = () => {
    this.#fail(this.#signal.reason);
    this.#request.destroy();
  };

  #fail(error: unknown): void {
    this.#failure ??= error ?? new Error('aborted');
    this.#wake?.();
  }

  /** The next bytes; undefined at the end, or when `enough` says so. */
  async #read(enough?: () => boolean): Promise<Buffer | undefined> {
    for (;;) {
      if (this.#signal.aborted) throw this.#signal.reason;
      // Bytes that came before a failure are delivered before it.
      const piece = this.#response.read() as Buffer | null;
      if (piece !== null) return this.#count(piece);
      if (this.#ended || enough?.()) return undefined;
      if (this.#failure !== undefined) throw this.#failure as Error;
      await this.#readable();
    }
  }

  #count(piece: Buffer): Buffer {
    this.#received += piece.length;
    if (this.#received > this.#limits.maxAnswerBytes) throw tooLong('the answer');
    return piece;
  }

  /** Waits for more. One timer per answer, rewound: it runs on while the consumer is busy, which is checked when it fires. */
  #readable(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = () => {
        this.#wake = undefined;
        resolve();
      };
      if (this.#timer === undefined) this.#timer = setTimeout(() => this.#onSilence(), this.#limits.stallTimeoutMs);
      else this.#timer.refresh();
    });
  }

  #onSilence(): void {
    const waiting = this.#wake;
    if (waiting === undefined) return;
    // Where this process itself was held up, bytes may lie in the kernel: one look at them first.
    setImmediate(() => {
      if (this.#wake !== waiting) return;
      this.#fail(new ProviderError('stalled', `The provider sent nothing for ${this.#limits.stallTimeoutMs} ms`));
    });
  }
}

function tooLong(what: string): ProviderError {
  return new ProviderError('upstream', `The provider sent more than is accepted for ${what}`);
}
