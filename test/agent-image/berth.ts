import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { connect, type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable, pipeline, type Duplex } from 'node:stream';
import { createParser, type EventSourceMessage } from 'eventsource-parser';
import { demoModel } from './demo-model.js';

/** One call of the LLM gateway, as the stand-in got it. */
export interface ModelRequest {
  headers: IncomingMessage['headers'];
  bytes: number;
  body: {
    model: string;
    messages: { role: string; content: unknown; tool_call_id?: string }[];
    tools?: { function: { name: string } }[];
  } & Record<string, unknown>;
}

export type Model = (request: ModelRequest, response: ServerResponse) => void | Promise<void>;

/** A link folder with its token, and the stand-ins that listen in it. */
export class LinkFolder {
  readonly dir = mkdtempSync(join(tmpdir(), 'bl-'));
  token = 'token-of-this-instance';

  constructor() {
    this.writeToken(this.token);
  }

  writeToken(token: string): void {
    this.token = token;
    writeFileSync(join(this.dir, 'token'), `${token}\n`);
  }

  remove(): void {
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** Plays a Berth process: listens on a socket in the folder, turns links round, serves a scripted model. */
export class BerthStandIn {
  readonly #folder: LinkFolder;
  readonly path: string;
  readonly #server: Server;
  readonly #sockets = new Set<Duplex>();
  readonly #waiting: ((session: ClientHttp2Session) => void)[] = [];
  session: ClientHttp2Session | undefined;
  links = 0;
  /** Status to refuse dials with. */
  refuse: number | undefined;
  dials: { at: number; headers: IncomingMessage['headers'] }[] = [];
  model: Model = demoModel;
  modelRequests: ModelRequest[] = [];
  keepModelRequests = true;
  onConnect: ((request: IncomingMessage, socket: Duplex, head: Buffer) => void) | undefined;
  onProxied: ((request: IncomingMessage, response: ServerResponse) => void) | undefined;

  constructor(folder: LinkFolder, name = 'one') {
    this.#folder = folder;
    this.path = join(folder.dir, `${name}.sock`);
    this.#server = createServer((request, response) => void this.#serve(request, response));
    this.#server.on('upgrade', (request, socket, head) => this.#upgrade(request, socket, head));
    this.#server.on('connect', (request, socket: Duplex, head) => this.onConnect?.(request, socket, head));
    this.#server.on('connection', (socket) => {
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
    });
  }

  async listen(): Promise<this> {
    this.#server.listen(this.path);
    await once(this.#server, 'listening');
    return this;
  }

  /** The next link to come up, or the one that is up. */
  async link(): Promise<ClientHttp2Session> {
    if (this.session && !this.session.destroyed) return this.session;
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** The next link to come up, whatever is up now. */
  nextLink(): Promise<ClientHttp2Session> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Dies as a process does: every connection ends, the socket file goes. */
  async close(): Promise<void> {
    this.session?.destroy();
    const closed = once(this.#server, 'close');
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  async request(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Answer> {
    const stream = await this.open(method, path, body, headers);
    return readAnswer(stream);
  }

  /** Sends a request over the link and leaves the answer to the caller. */
  async open(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<ClientHttp2Stream> {
    const session = await this.link();
    const stream = session.request({ ':method': method, ':path': path, ...headers }, { endStream: body === undefined });
    // Whoever reads the answer is told by its end; a stream that nobody reads must not end the test.
    stream.on('error', () => undefined);
    if (body !== undefined)
      sendBody(stream, Buffer.isBuffer(body) ? body : Buffer.from(typeof body === 'string' ? body : JSON.stringify(body)));
    return stream;
  }

  async configure(agents: object[], version = 1): Promise<Answer> {
    return this.request('PUT', '/berth/v1/config', { version, agents });
  }

  /** A streamed turn, read to its end. */
  async chat(body: object, headers: Record<string, string> = {}): Promise<Streamed> {
    const stream = await this.open('POST', '/v1/chat/completions', { stream: true, ...body }, headers);
    return readStreamed(stream);
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (request.url?.startsWith('http://')) {
      this.onProxied?.(request, response);
      return;
    }
    if (request.headers.authorization !== `Bearer ${this.#folder.token}`) {
      response.writeHead(401, { 'content-type': 'application/json' });
      response.end('{"error":{"message":"wrong token","type":"unauthorized"}}');
      return;
    }
    const pieces: Buffer[] = [];
    try {
      for await (const piece of request as AsyncIterable<Buffer>) pieces.push(piece);
    } catch {
      return; // The gateway went away in the midst of it.
    }
    const text = Buffer.concat(pieces).toString();
    const call: ModelRequest = { headers: request.headers, bytes: text.length, body: JSON.parse(text) as ModelRequest['body'] };
    if (this.keepModelRequests) this.modelRequests.push(call);
    await this.model(call, response);
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    this.dials.push({ at: performance.now(), headers: request.headers });
    const status = this.refuse ?? (request.headers.authorization === `Bearer ${this.#folder.token}` ? 101 : 401);
    if (status !== 101) {
      socket.end(`HTTP/1.1 ${status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`);
      return;
    }
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: berth-link\r\n\r\n');
    if (head.length > 0) socket.unshift(head);
    const session = connect('http://berth', { createConnection: () => socket });
    session.on('error', () => undefined);
    this.session = session;
    this.links += 1;
    for (const resolve of this.#waiting.splice(0)) resolve(session);
  }
}

/**
 * Sends a body in pieces as the other end takes them: what waits to be sent counts as memory of the session, and a session that has
 * too much of it takes no response headers any more (Node resets those streams with ENHANCE_YOUR_CALM).
 */
function sendBody(stream: ClientHttp2Stream, body: Buffer): void {
  if (body.length <= PIECE_BYTES) return void stream.end(body);
  const pieces = Array.from({ length: Math.ceil(body.length / PIECE_BYTES) }, (_, i) =>
    body.subarray(i * PIECE_BYTES, (i + 1) * PIECE_BYTES),
  );
  pipeline(Readable.from(pieces, { objectMode: false }), stream, () => undefined);
}

const PIECE_BYTES = 64 * 1024;

export interface Answer {
  status: number;
  headers: Record<string, unknown>;
  text: string;
  json: any;
}

export async function readAnswer(stream: ClientHttp2Stream): Promise<Answer> {
  const [headers] = (await Promise.race([
    once(stream, 'response'),
    once(stream, 'close').then(() => Promise.reject(new Error('the stream was closed without an answer'))),
  ])) as [Record<string, unknown>];
  stream.setEncoding('utf8');
  let text = '';
  for await (const piece of stream as AsyncIterable<string>) text += piece;
  return { status: Number(headers[':status']), headers, text, json: parseOrUndefined(text) };
}

export interface Streamed extends Answer {
  events: { event: string | undefined; data: any }[];
  /** All content deltas together. */
  said: string;
  finish: string | undefined;
  usage: { prompt_tokens: number; completion_tokens: number; total_tokens: number } | undefined;
  error: { message: string; type: string; code?: string } | undefined;
  done: boolean;
}

export async function readStreamed(stream: ClientHttp2Stream): Promise<Streamed> {
  return understand(await readAnswer(stream));
}

/** Reads the events of a streamed answer. */
export function understand(answer: Answer): Streamed {
  const messages: EventSourceMessage[] = [];
  createParser({ onEvent: (message) => messages.push(message) }).feed(answer.text);
  const done = messages.at(-1)?.data === '[DONE]';
  const events = messages.filter(({ data }) => data !== '[DONE]').map(({ event, data }) => ({ event, data: JSON.parse(data) }));
  const chunks = events.filter(({ event }) => event === undefined).map(({ data }) => data);
  return {
    ...answer,
    events,
    done,
    said: chunks.map((chunk) => chunk.choices?.[0]?.delta.content ?? '').join(''),
    finish: chunks.map((chunk) => chunk.choices?.[0]?.finish_reason).find((finish) => typeof finish === 'string'),
    usage: chunks.find((chunk) => chunk.usage)?.usage,
    error: chunks.find((chunk) => chunk.error)?.error,
  };
}

function parseOrUndefined(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
