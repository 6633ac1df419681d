import { readdir, readFile } from 'node:fs/promises';
import type { Http2ServerRequest, Http2ServerResponse } from 'node:http2';
import { join } from 'node:path';
import type { FakeProcess } from '../../src/runtime/fake/engine.js';
import type { InstanceSpec } from '../../src/runtime/runtime.js';
import { Gateway } from '../link/gateway.js';

interface Agent {
  id: string;
  incarnation: string;
  model: string;
}

/** How the next turns behave, for tests of the unhappy half. */
export type Script = (
  request: { body: { messages: { content: string }[]; user?: string } },
  response: Http2ServerResponse,
) => void | Promise<void>;

/** The gateways of fake instances, in this process: they dial over the real link, take configs and echo. What they were told is theirs to show. */
export class FakeGateways {
  readonly configs = new Map<string, { version: number; agents: Agent[] }>();
  /** Instances that must not dial. */
  silent = false;
  /** Links of instances that ended stay open, as where this side has not seen their end yet. */
  lingering = false;
  /** Seconds that every instance says it must not be put to rest; `silent`: it does not answer the question. */
  busyS: number | 'silent' = 0;
  script: Script | undefined;
  /** Why an instance takes no config, if it takes none. */
  refuses: ((spec: InstanceSpec) => string | undefined) | undefined;
  /** Conversations that were to be forgotten, as `agent/conversation`. */
  readonly forgotten: string[] = [];
  /** Answers the calls for files, whose bodies it reads itself; without it there are none. */
  files: ((request: Http2ServerRequest, response: Http2ServerResponse) => void) | undefined;
  /** The programs of instances, by instance, so that a test can have them print something. */
  readonly programs = new Map<string, FakeProcess>();
  readonly #open = new Map<string, Map<string, Gateway>>();
  readonly #ends = new Map<string, AbortController>();

  async begin(spec: InstanceSpec, process: FakeProcess): Promise<void> {
    const end = new AbortController();
    this.#ends.set(spec.instanceId, end);
    this.programs.set(spec.instanceId, process);
    process.log('stdout', JSON.stringify({ time: new Date().toISOString(), level: 'info', msg: 'started' }));
    const links = new Map<string, Gateway>();
    this.#open.set(spec.instanceId, links);
    for (let turn = 0; !end.signal.aborted && !process.ended.aborted; turn++) {
      if (!this.silent && (turn % 10 === 0 || isDown(links))) await this.#dialAll(spec, process, links).catch(() => undefined);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    while (this.lingering) await new Promise((resolve) => setTimeout(resolve, 10));
    for (const gateway of links.values()) gateway.close();
  }

  end(spec: InstanceSpec): void {
    this.#ends.get(spec.instanceId)?.abort();
  }

  /** Cuts every link, as a lost connection would. */
  cut(): void {
    for (const links of this.#open.values()) for (const gateway of links.values()) gateway.close();
  }

  async close(): Promise<void> {
    this.lingering = false;
    for (const end of this.#ends.values()) end.abort();
    this.cut();
  }

  async #dialAll(spec: InstanceSpec, process: FakeProcess, links: Map<string, Gateway>): Promise<void> {
    const token = (await readFile(join(spec.linkDir, 'token'), 'utf8')).trim();
    for (const name of await readdir(spec.linkDir)) {
      if (!name.endsWith('.sock')) continue;
      const known = links.get(name);
      if (known && known.socket && !known.socket.destroyed) continue;
      const gateway = new Gateway((request, response) => {
        if (process.ended.aborted) return gateway.close();
        // Berth may give up a call whose body is still on its way.
        this.#answer(spec, request, response).catch(() => response.destroy());
      });
      links.set(name, gateway);
      await gateway.dial(join(spec.linkDir, name), token).catch(() => links.delete(name));
    }
  }

  async #answer(spec: InstanceSpec, request: Http2ServerRequest, response: Http2ServerResponse): Promise<void> {
    const forgotten = /^\/berth\/v1\/agents\/([^/]+)\/conversations\/([^/]+)$/.exec(request.url);
    if (forgotten && request.method === 'DELETE') {
      this.forgotten.push(`${forgotten[1]}/${forgotten[2]}`);
      return void response.end('{"deleted":true}');
    }
    if (request.url.startsWith('/berth/v1/agents/') && this.files) return this.files(request, response);
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const text = Buffer.concat(chunks).toString('utf8');
    const path = `${request.method} ${request.url}`;
    const refusal = path === 'PUT /berth/v1/config' ? this.refuses?.(spec) : undefined;
    if (refusal !== undefined) {
      response.statusCode = 400;
      response.end(JSON.stringify({ error: { message: refusal } }));
    } else if (path === 'PUT /berth/v1/config') {
      const config = JSON.parse(text);
      this.configs.set(spec.instanceId, config);
      response.end(JSON.stringify({ version: config.version, agents: config.agents.map((agent: Agent) => agent.id) }));
    } else if (path === 'GET /berth/v1/release') {
      response.end(JSON.stringify({ released: [] }));
    } else if (path === 'POST /berth/v1/release') {
      // Its turns are over at once, so that none is ever in the way.
      response.end(JSON.stringify({ released: (JSON.parse(text) as { agents: string[] }).agents }));
    } else if (path === 'GET /berth/v1/activity') {
      if (this.busyS !== 'silent') response.end(JSON.stringify({ busy_s: this.busyS }));
    } else if (path === 'GET /v1/models') {
      const agents = this.configs.get(spec.instanceId)?.agents ?? [];
      response.end(
        JSON.stringify({ object: 'list', data: agents.map((agent) => ({ id: `openclaw/${agent.id}`, object: 'model' })) }),
      );
    } else if (/^(GET|PUT) \/berth\/v1\/agents\/[^/]+\/state(\?|$)/.test(path)) {
      // A state with nothing in it: a tar's end.
      if (request.method === 'GET') return void response.end(Buffer.alloc(1_024));
      response.statusCode = 201;
      response.end(JSON.stringify({ files: 0, bytes: 0 }));
    } else if (/^GET \/berth\/v1\/agents\/[^/]+\/context$/.test(path)) {
      const id = decodeURIComponent(path.split('/')[4] ?? '');
      const parts = [{ name: 'identity', text: `You are ${id}.` }];
      response.end(JSON.stringify({ agent: id, model: 'demo/echo', system: parts[0]?.text, parts, tools: [], sampling: {} }));
    } else if (path === 'POST /v1/chat/completions') {
      response.setHeader('content-type', 'text/event-stream');
      await (this.script ?? echo)({ body: JSON.parse(text) }, response);
    } else {
      response.statusCode = 404;
      response.end();
    }
  }
}

/** One chunk of text as a gateway sends it. */
export function textChunk(content: string, finish: string | null = null): string {
  return `data: ${JSON.stringify({ id: 'x', object: 'chat.completion.chunk', choices: [{ index: 0, delta: { content }, finish_reason: finish }] })}\n\n`;
}

function echo({ body }: Parameters<Script>[0], response: Http2ServerResponse): void {
  const said = `You said: ${String(body.messages.at(-1)?.content)}`;
  for (const word of said.split(/(?= )/)) response.write(textChunk(word));
  response.write(textChunk('', 'stop'));
  const usage = { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 };
  response.write(`data: ${JSON.stringify({ choices: [], usage })}\n\n`);
  response.end('data: [DONE]\n\n');
}

/** A link is lost, or there is none yet. Only then the folder is looked at each time: a test may have hundreds of instances. */
function isDown(links: Map<string, Gateway>): boolean {
  return links.size === 0 || [...links.values()].some(({ socket }) => socket?.destroyed !== false);
}
