import { EventSourceParserStream } from 'eventsource-parser/stream';

/** What Berth answered where it was not a success. */
export class Refused extends Error {
  readonly status: number;

  constructor(what: string, status: number, text: string) {
    super(`${what} answered ${status}: ${text}`);
    this.name = 'Refused';
    this.status = status;
  }
}

export interface ServerEvent {
  event: string;
  data: Record<string, unknown>;
}

/** Berth's API as one key sees it. */
export class Client {
  readonly #base: string;
  readonly #key: string;

  constructor(origin: string, key: string) {
    this.#base = `${origin}/api/v1`;
    this.#key = key;
  }

  async call<T>(method: string, path: string, body?: unknown): Promise<T> {
    const response = await this.#send(method, path, body);
    const text = await response.text();
    return (text === '' ? undefined : JSON.parse(text)) as T;
  }

  /** The server-sent events of an answer, as they come. */
  async *events(method: string, path: string, body?: unknown): AsyncGenerator<ServerEvent> {
    const response = await this.#send(method, path, body);
    if (!response.body) return;
    const messages = response.body.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream());
    for await (const { event, data } of messages)
      yield { event: event ?? 'message', data: JSON.parse(data) as ServerEvent['data'] };
  }

  async #send(method: string, path: string, body: unknown): Promise<Response> {
    const response = await fetch(`${this.#base}${path}`, {
      method,
      headers: { 'X-API-Key': this.#key, ...(body === undefined ? {} : { 'Content-Type': 'application/json' }) },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    if (!response.ok) throw new Refused(`${method} ${path}`, response.status, await response.text());
    return response;
  }
}
