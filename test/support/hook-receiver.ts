import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Webhook } from 'standardwebhooks';
import { until } from './until.js';

export interface Received {
  path: string;
  id: string;
  // oxlint-disable-next-line typescript/no-explicit-any -- tests look into it freely
  json: any;
  headers: Record<string, string>;
  body: string;
}

/** A receiver of webhooks as somebody might run one. */
export class HookReceiver {
  readonly received: Received[] = [];
  /** How it answers; 204 unless told. */
  answer: (response: ServerResponse, received: Received) => void = ok;
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async start(): Promise<HookReceiver> {
    const server = createServer((request, response) => void receiver.#take(request, response));
    const receiver = new HookReceiver(server);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return receiver;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}/hook`;
  }

  /** The numbers of the events, in the order in which they came. */
  get seqs(): number[] {
    return this.received.map(({ json }) => json.seq);
  }

  /** Waits for so many. */
  async got(count: number): Promise<Received[]> {
    await until(
      () => this.received.length >= count,
      () => `${count} webhooks: ${this.received.map(({ body }) => body).join('\n')}`,
    );
    return this.received;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #take(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body = '';
    for await (const chunk of request) body += String(chunk);
    const headers = Object.fromEntries(Object.entries(request.headers).map(([name, value]) => [name, String(value)]));
    const received = { path: request.url ?? '', id: headers['webhook-id'] ?? '', json: JSON.parse(body), headers, body };
    this.received.push(received);
    this.answer(response, received);
  }
}

function ok(response: ServerResponse): void {
  response.writeHead(204).end();
}

/** Whether the library that receivers use takes it under that secret. */
export function isSigned({ body, headers }: Received, secret: string): boolean {
  try {
    new Webhook(secret).verify(body, headers);
    return true;
  } catch {
    return false;
  }
}
