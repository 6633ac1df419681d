import { once } from 'node:events';
import { join } from 'node:path';
import type { ClientHttp2Stream } from 'node:http2';
import { agent, startFixture, type Fixture } from './fixture.js';

export interface FileAnswer {
  status: number;
  headers: Record<string, any>;
  bytes: Buffer;
  text: string;
  json: any;
}

/** A gateway with the agents `a` and `b`, and what Berth asks of it about their files. */
export class FilesFixture {
  readonly fixture: Fixture;

  constructor(fixture: Fixture) {
    this.fixture = fixture;
  }

  static async start(env: Record<string, string> = {}): Promise<FilesFixture> {
    const fixture = await startFixture(env);
    await fixture.berth.configure([agent('a'), agent('b')]);
    return new FilesFixture(fixture);
  }

  get dataDir(): string {
    return this.fixture.gateway.dataDir;
  }

  /** A path in the workspace of agent `a`, where the agent's own shell would see it. */
  inside(...path: string[]): string {
    return join(this.dataDir, 'workspaces/a', ...path);
  }

  async ask(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<FileAnswer> {
    return readFileAnswer(await this.fixture.berth.open(method, `/berth/v1/agents/a/${path}`, body, headers));
  }

  get(path: string, headers: Record<string, string> = {}): Promise<FileAnswer> {
    return this.ask('GET', `files/${encode(path)}`, undefined, headers);
  }

  put(path: string, body: string | Buffer, headers: Record<string, string> = {}): Promise<FileAnswer> {
    return this.ask('PUT', `files/${encode(path)}`, typeof body === 'string' ? Buffer.from(body) : body, headers);
  }

  /** Opens an upload whose body the caller writes. */
  async upload(path: string, headers: Record<string, string> = {}): Promise<ClientHttp2Stream> {
    const session = await this.fixture.berth.link();
    const stream = session.request({ ':method': 'PUT', ':path': `/berth/v1/agents/a/${path}`, ...headers });
    stream.on('error', () => undefined);
    return stream;
  }

  /** All entries of a folder, page after page. */
  async list(query: Record<string, string> = {}): Promise<any[]> {
    const entries: any[] = [];
    let cursor = '';
    do {
      const { json } = await this.ask(
        'GET',
        `list?${new URLSearchParams({ ...query, ...(cursor ? { cursor } : {}) }).toString()}`,
      );
      entries.push(...json.entries);
      cursor = json.next_cursor ?? '';
    } while (cursor);
    return entries;
  }

  close(): Promise<void> {
    return this.fixture.close();
  }
}

export function encode(path: string): string {
  return path.split('/').map(encodeURIComponent).join('/');
}

export async function readFileAnswer(stream: ClientHttp2Stream): Promise<FileAnswer> {
  const [headers] = (await Promise.race([
    once(stream, 'response'),
    once(stream, 'close').then(() => Promise.reject(new Error('the stream was closed without an answer'))),
  ])) as [Record<string, any>];
  const pieces: Buffer[] = [];
  for await (const piece of stream as AsyncIterable<Buffer>) pieces.push(piece);
  const bytes = Buffer.concat(pieces);
  const text = bytes.toString('utf8');
  return { status: Number(headers[':status']), headers, bytes, text, json: parseOrUndefined(text) };
}

function parseOrUndefined(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
