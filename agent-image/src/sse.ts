import type { ServerResponse } from 'node:http';
import type { Http2ServerResponse } from 'node:http2';

const KEEP_ALIVE_MS = 30_000;

export type Response = ServerResponse | Http2ServerResponse;

/** Where the events of a turn go. */
export interface EventSink {
  /** Number of the latest event, where they are numbered. */
  readonly last?: number;
  open(): void;
  /** One `data:` event, or a named one. `data` is a single line of JSON. A promise is to be waited for before more is sent. */
  send(data: string, event?: string): Promise<void> | undefined;
  end(): void;
}

/**
 * Writes server-sent events and knows when the reader lags: `write` gives a promise then, and whoever produces must wait for it
 * before producing more. Once the reader is gone, writes do nothing and never wait.
 */
export class EventStream implements EventSink {
  readonly #response: Response;
  #room: Promise<void> | undefined;
  #closed = false;
  #keepAlive: NodeJS.Timeout | undefined;

  constructor(response: Response) {
    this.#response = response;
    response.once('close', () => {
      this.#closed = true;
      clearInterval(this.#keepAlive);
    });
  }

  /** Writes the head at once, so that the client knows its request was taken before the model says anything. */
  open(): void {
    this.#response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' });
    // A long command or a turn that waits for the one before it says nothing; a comment shows that it is alive.
    this.#keepAlive = setInterval(() => this.#room ?? this.#write(': working\n\n'), KEEP_ALIVE_MS);
  }

  send(data: string, event?: string): Promise<void> | undefined {
    return this.#write(event === undefined ? `data: ${data}\n\n` : `event: ${event}\ndata: ${data}\n\n`);
  }

  end(): void {
    clearInterval(this.#keepAlive);
    if (!this.#closed) this.#response.end('data: [DONE]\n\n');
  }

  #write(text: string): Promise<void> | undefined {
    if (this.#closed) return undefined;
    const room = (this.#response as ServerResponse).write(text);
    if (room) return this.#room;
    // One wait for all that write meanwhile: several tools may report at once.
    this.#room ??= this.#drained().finally(() => (this.#room = undefined));
    return this.#room;
  }

  #drained(): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        this.#response.off('drain', done);
        this.#response.off('close', done);
        resolve();
      };
      this.#response.on('drain', done);
      this.#response.on('close', done);
    });
  }
}
