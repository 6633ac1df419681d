import http from 'node:http';
import { once } from 'node:events';
import { createParser } from 'eventsource-parser';

export interface SeenEvent {
  event: string;
  // oxlint-disable-next-line typescript/no-explicit-any -- tests look into it freely
  data: any;
  id: string | undefined;
  /** Milliseconds after the request was sent. */
  atMs: number;
}

/** A client of server-sent events that can stop reading, hang up, and say when the first byte came. */
export class EventReader implements AsyncIterable<SeenEvent> {
  readonly events: SeenEvent[] = [];
  comments: string[] = [];
  text = '';
  status = 0;
  headers: http.IncomingHttpHeaders = {};
  ended = false;
  readonly #request: http.ClientRequest;
  #response: http.IncomingMessage | undefined;
  readonly #begun = performance.now();
  #wake: (() => void)[] = [];

  private constructor(request: http.ClientRequest) {
    this.#request = request;
  }

  /** Resolves once the headers are here. `keepText: false` for streams without end. */
  static async open(
    url: string,
    {
      method = 'POST',
      key,
      body,
      headers = {},
    }: { method?: string; key: string; body?: unknown; headers?: Record<string, string> },
  ): Promise<EventReader> {
    const payload = body === undefined ? undefined : JSON.stringify(body);
    const request = http.request(url, {
      method,
      agent: false,
      headers: {
        'x-api-key': key,
        ...(payload === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) }),
        ...headers,
      },
    });
    const reader = new EventReader(request);
    request.end(payload);
    const [response] = (await once(request, 'response')) as [http.IncomingMessage];
    request.on('error', () => undefined);
    reader.#take(response);
    return reader;
  }

  #take(response: http.IncomingMessage): void {
    this.#response = response;
    this.status = response.statusCode ?? 0;
    this.headers = response.headers;
    const parser = createParser({
      onEvent: ({ event = 'message', data, id }) =>
        this.events.push({ event, data: data === '[DONE]' ? data : JSON.parse(data), id, atMs: performance.now() - this.#begun }),
      onComment: (comment) => this.comments.push(comment),
    });
    response.setEncoding('utf8');
    response.on('data', (text: string) => {
      this.text += text;
      if (response.headers['content-type']?.startsWith('text/event-stream')) parser.feed(text);
      this.#tell();
    });
    response.on('close', () => {
      this.ended = true;
      this.#tell();
    });
    response.on('error', () => undefined);
  }

  /** Stops reading: what the server sends piles up in the kernel. */
  pause(): void {
    this.#response?.pause();
  }

  resume(): void {
    this.#response?.resume();
  }

  hangUp(): void {
    this.#request.destroy();
  }

  /** The names of the events so far, repeated ones once. */
  get names(): string[] {
    return this.events.map(({ event }) => event).filter((name, i, all) => name !== all[i - 1]);
  }

  /** The text deltas so far, joined. */
  get said(): string {
    return this.events
      .filter(({ event }) => event === 'text')
      .map(({ data }) => data.delta)
      .join('');
  }

  /** The first event of that name. */
  async first(name: string, withinMs = 20_000): Promise<SeenEvent> {
    await this.until(() => this.events.some(({ event }) => event === name), `an event ${name}`, withinMs);
    return this.events.find(({ event }) => event === name)!;
  }

  /** Waits for the end of the answer. */
  async end(withinMs = 20_000): Promise<this> {
    await this.until(() => this.ended, 'the end of the stream', withinMs);
    return this;
  }

  async until(check: () => boolean, what: string, withinMs = 20_000): Promise<void> {
    const deadline = performance.now() + withinMs;
    while (!check()) {
      if (this.ended) throw new Error(`the stream ended without ${what}: ${this.text.slice(-500)}`);
      const left = deadline - performance.now();
      if (left <= 0) throw new Error(`waited ${withinMs} ms for ${what}: ${this.text.slice(-500)}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#wake.push(() => (clearTimeout(timer), resolve()));
      });
    }
  }

  async *[Symbol.asyncIterator](): AsyncIterator<SeenEvent> {
    for (let at = 0; ; at++) {
      if (at >= this.events.length && !this.ended) await this.until(() => this.ended || at < this.events.length, 'another event');
      if (at >= this.events.length) return;
      yield this.events[at]!;
    }
  }

  #tell(): void {
    for (const wake of this.#wake.splice(0)) wake();
  }
}
