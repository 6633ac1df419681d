import http from 'node:http';
import { once } from 'node:events';
import type { AddressInfo, Socket } from 'node:net';

/** How the fake upstream answers one request. */
export interface Script {
  status?: number;
  headers?: Record<string, string>;
  /** Written one by one, each waiting until the one before is taken over by the kernel. */
  pieces?: Iterable<string | Buffer>;
  /** Between the pieces. */
  pauseMs?: number;
  /** After the pieces; `cut` destroys the connection, `stall` says nothing more. Default `end`. */
  after?: 'end' | 'cut' | 'stall';
  /** Says nothing at all, or destroys the connection, before the headers. */
  instead?: 'stall' | 'cut';
}

export interface SeenRequest {
  path: string;
  headers: http.IncomingHttpHeaders;
  // oxlint-disable-next-line typescript/no-explicit-any -- tests look into it freely
  body: any;
}

/** A scriptable model API on loopback: OpenAI's and Anthropic's are only different scripts. */
export class FakeUpstream {
  readonly #server: http.Server;
  readonly #sockets = new Set<Socket>();
  readonly #queue: Script[] = [];
  /** What is answered when no script is queued. */
  fallback: Script = openai.text('Hello there');
  readonly requests: SeenRequest[] = [];
  /** Answers whose connection was closed by the other side before their end. */
  hungUp = 0;
  /** Connections ever accepted. */
  connections = 0;
  /** Bytes of pieces taken over by the kernel, of all answers. */
  written = 0;

  constructor() {
    this.#server = http.createServer((request, response) => void this.#answer(request, response));
    this.#server.on('connection', (socket) => {
      this.connections++;
      this.#sockets.add(socket);
      socket.on('close', () => this.#sockets.delete(socket));
      socket.on('error', () => undefined);
    });
  }

  static async start(): Promise<FakeUpstream> {
    const upstream = new FakeUpstream();
    upstream.#server.listen(0, '127.0.0.1');
    await once(upstream.#server, 'listening');
    return upstream;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  get openConnections(): number {
    return this.#sockets.size;
  }

  /** Queues the answers to the next requests. */
  script(...scripts: Script[]): void {
    this.#queue.push(...scripts);
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, 'close');
  }

  async #answer(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    response.on('close', () => (response.writableFinished ? undefined : this.hungUp++));
    let body = '';
    for await (const piece of request.setEncoding('utf8')) body += piece as string;
    this.requests.push({ path: request.url ?? '', headers: request.headers, body: body === '' ? undefined : JSON.parse(body) });
    const script = this.#queue.shift() ?? this.fallback;
    if (script.instead === 'cut') return void request.socket.destroy();
    if (script.instead === 'stall') return;
    response.writeHead(script.status ?? 200, { 'content-type': 'text/event-stream', ...script.headers });
    await this.#write(script, response);
    if (response.destroyed) return;
    if (script.after === 'cut') setImmediate(() => request.socket.destroy()); // once what was written is in the kernel
    else if (script.after === 'stall') response.flushHeaders();
    else response.end();
  }

  async #write(script: Script, response: http.ServerResponse): Promise<void> {
    for (const piece of script.pieces ?? []) {
      if (response.destroyed) return;
      if (!response.write(piece)) await drained(response);
      this.written += piece.length;
      if (script.pauseMs !== undefined) await new Promise((resolve) => setTimeout(resolve, script.pauseMs));
    }
  }
}

function drained(response: http.ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      response.off('drain', done).off('close', done);
      resolve();
    };
    response.on('drain', done).on('close', done);
  });
}

/** A chunk of text as one server-sent event. */
function openaiEvent(choice: object, more: object = {}): string {
  const base = { id: 'chatcmpl-1', object: 'chat.completion.chunk', created: 1700000000, model: 'gpt-fake' };
  const choices = [{ index: 0, finish_reason: null, ...choice }];
  return `data: ${JSON.stringify({ ...base, choices, usage: null, ...more })}\n\n`;
}

const OPENAI_USAGE = { prompt_tokens: 11, completion_tokens: 7, total_tokens: 18 };

/** Scripts and pieces in OpenAI's protocol. */
export const openai = {
  usage: OPENAI_USAGE,
  event: openaiEvent,
  word: (word: string) => openaiEvent({ delta: { content: word } }),
  /** The end of an answer: finish, usage unless left out, `[DONE]`. */
  tail: (finish = 'stop', usage: object | null = OPENAI_USAGE) => [
    openaiEvent({ delta: {}, finish_reason: finish }),
    ...(usage ? [openaiEvent({}, { choices: [], usage })] : []),
    'data: [DONE]\n\n',
  ],
  text(text: string, usage: object | null = OPENAI_USAGE): Script {
    const words = text.match(/\s*\S+/g) ?? [];
    return {
      pieces: [
        openaiEvent({ delta: { role: 'assistant', content: '' } }),
        ...words.map(openai.word),
        ...openai.tail('stop', usage),
      ],
    };
  },
  toolCalls(...calls: { id: string; name: string; pieces: string[] }[]): Script {
    const pieces = calls.flatMap((call, index) => [
      openaiEvent({
        delta: { tool_calls: [{ index, id: call.id, type: 'function', function: { name: call.name, arguments: '' } }] },
      }),
      ...call.pieces.map((part) => openaiEvent({ delta: { tool_calls: [{ index, function: { arguments: part } }] } })),
    ]);
    return { pieces: [openaiEvent({ delta: { role: 'assistant', content: null } }), ...pieces, ...openai.tail('tool_calls')] };
  },
  error: (status: number, message: string, headers: Record<string, string> = {}): Script => ({
    status,
    headers: { 'content-type': 'application/json', ...headers },
    pieces: [JSON.stringify({ error: { message, type: 'some_error', code: null } })],
  }),
};

function anthropicEvent(type: string, fields: object = {}): string {
  return `event: ${type}\ndata: ${JSON.stringify({ type, ...fields })}\n\n`;
}

/** Scripts and pieces in Anthropic's protocol. */
export const anthropic = {
  event: anthropicEvent,
  start: (usage: object = { input_tokens: 20, output_tokens: 1 }) =>
    anthropicEvent('message_start', {
      message: { id: 'msg_1', type: 'message', role: 'assistant', model: 'claude-fake', content: [], stop_reason: null, usage },
    }),
  word: (word: string, index = 0) => anthropicEvent('content_block_delta', { index, delta: { type: 'text_delta', text: word } }),
  tail: (stop = 'end_turn', usage: object = { output_tokens: 9 }) => [
    anthropicEvent('message_delta', { delta: { stop_reason: stop, stop_sequence: null }, usage }),
    anthropicEvent('message_stop'),
  ],
  text(text: string, usage?: object): Script {
    const words = text.match(/\s*\S+/g) ?? [];
    return {
      pieces: [
        anthropic.start(usage),
        anthropicEvent('content_block_start', { index: 0, content_block: { type: 'text', text: '' } }),
        anthropicEvent('ping'),
        ...words.map((word) => anthropic.word(word)),
        anthropicEvent('content_block_stop', { index: 0 }),
        ...anthropic.tail(),
      ],
    };
  },
  toolUse(...calls: { id: string; name: string; pieces: string[] }[]): Script {
    const pieces = calls.flatMap((call, index) => [
      anthropicEvent('content_block_start', {
        index,
        content_block: { type: 'tool_use', id: call.id, name: call.name, input: {} },
      }),
      ...call.pieces.map((part) =>
        anthropicEvent('content_block_delta', { index, delta: { type: 'input_json_delta', partial_json: part } }),
      ),
      anthropicEvent('content_block_stop', { index }),
    ]);
    return { pieces: [anthropic.start(), ...pieces, ...anthropic.tail('tool_use')] };
  },
  error: (status: number, type: string, message: string): Script => ({
    status,
    headers: { 'content-type': 'application/json' },
    pieces: [JSON.stringify({ type: 'error', error: { type, message } })],
  }),
};

/** Faults of any upstream, whatever its protocol. */
export const faults = {
  html: (status = 200): Script => ({
    status,
    headers: { 'content-type': 'text/html' },
    pieces: ['<html><body>Bad gateway</body></html>'],
  }),
  garbage: (): Script => ({ pieces: ['data: {"choices": [{]}\n\n', 'data: more\n\n'] }),
  noise: (): Script => ({ pieces: ['this is no event\nnor is this\n'] }),
  stallBeforeHeaders: (): Script => ({ instead: 'stall' }),
  cutBeforeHeaders: (): Script => ({ instead: 'cut' }),
  redirect: (to: string): Script => ({ status: 302, headers: { location: to } }),
  hugeLine: (bytes: number): Script => ({
    pieces: (function* () {
      yield 'data: {"x":"';
      for (let sent = 0; sent < bytes; sent += 65_536) yield 'x'.repeat(65_536);
      yield '"}\n\n';
    })(),
  }),
};
