import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { WebSocket } from 'ws';
import { until } from './until.js';

/** A client of Berth's WebSocket that keeps what it is told. */
export class SocketClient {
  // oxlint-disable-next-line typescript/no-explicit-any -- tests look into it freely
  readonly messages: any[] = [];
  closed: { code: number; reason: string } | undefined;
  readonly #socket: WebSocket;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.on('message', (data: Buffer) => this.messages.push(JSON.parse(data.toString('utf8'))));
    socket.on('close', (code, reason) => (this.closed = { code, reason: reason.toString('utf8') }));
    socket.on('error', () => undefined);
  }

  /** Resolves once it is open; rejects with the answer's status and text where it is refused. */
  static async open(url: string, headers: Record<string, string> = {}): Promise<SocketClient> {
    const socket = new WebSocket(url.replace('http', 'ws'), { headers });
    const client = new SocketClient(socket);
    const refused = once(socket, 'unexpected-response').then(async ([, response]: IncomingMessage[]) => {
      let text = '';
      for await (const chunk of response!) text += String(chunk);
      throw new Error(`${response!.statusCode} ${text}`);
    });
    await Promise.race([once(socket, 'open'), refused]);
    refused.catch(() => undefined);
    return client;
  }

  say(message: unknown): void {
    this.#socket.send(typeof message === 'string' ? message : JSON.stringify(message));
  }

  /** Says something, and waits for the next message of that type. */
  // oxlint-disable-next-line typescript/no-explicit-any -- tests look into it freely
  async ask(message: unknown, type: string): Promise<any> {
    const from = this.messages.length;
    this.say(message);
    return this.next(type, from);
  }

  /** The first message of that type from a place on. */
  // oxlint-disable-next-line typescript/no-explicit-any -- tests look into it freely
  async next(type: string, from = 0): Promise<any> {
    const find = () => this.messages.slice(from).find((message) => message.type === type);
    await until(
      () => find() !== undefined,
      () => `a message ${type}: ${JSON.stringify(this.messages).slice(-500)} ${JSON.stringify(this.closed)}`,
    );
    return find();
  }

  /** The events so far. */
  // oxlint-disable-next-line typescript/no-explicit-any -- tests look into it freely
  get events(): any[] {
    return this.messages.filter(({ type }) => type === 'event');
  }

  async end(): Promise<{ code: number; reason: string }> {
    await until(() => this.closed !== undefined, 'the WebSocket to be closed');
    return this.closed!;
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  hangUp(): void {
    this.#socket.terminate();
  }
}
