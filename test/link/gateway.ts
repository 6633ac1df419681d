import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import http from 'node:http';
import http2, { type Http2Server, type ServerHttp2Session } from 'node:http2';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pino } from 'pino';
import { LinkHost, type LinkHostOptions } from '../../src/link/host.js';
import type { LinkAbuse, LinkIdentity } from '../../src/link/link.js';

export const silentLog = pino({ level: 'silent' });

export interface TestHost {
  host: LinkHost;
  dir: string;
  ups: string[];
  downs: string[];
  abuses: LinkAbuse[];
  /** Opens an instance with a token of its own. */
  instance(name: string): Promise<TestInstance>;
  stop(): Promise<void>;
}

export interface TestInstance extends LinkIdentity {
  token: string;
  socketPath: string;
  folder: string;
}

export function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

export async function startHost(options: Partial<LinkHostOptions> = {}): Promise<TestHost> {
  const dir = options.dir ?? (await mkdtemp(path.join(tmpdir(), 'bl-')));
  const processId = options.processId ?? 'prc_test';
  const ups: string[] = [];
  const downs: string[] = [];
  const abuses: LinkAbuse[] = [];
  const host = new LinkHost({
    log: silentLog,
    handler: (identity, request, response) => {
      request.resume();
      response.end(`hello ${identity.instanceId}`);
    },
    onUp: (identity) => ups.push(identity.instanceId),
    onDown: (identity, reason) => downs.push(`${identity.instanceId}: ${reason}`),
    onAbuse: (abuse) => abuses.push(abuse),
    ...options,
    dir,
    processId,
  });
  return {
    host,
    dir,
    ups,
    downs,
    abuses,
    instance: async (name) => {
      const identity = { instanceId: `ins_${name}`, deploymentId: `dep_${name}`, userId: `usr_${name}` };
      const token = randomBytes(16).toString('hex');
      const { dir: folder } = await host.open(identity, sha256(token));
      return { ...identity, token, folder, socketPath: path.join(folder, `${processId}.sock`) };
    },
    stop: async () => {
      await host.shutdown();
      await rm(dir, { recursive: true, force: true });
    },
  };
}

/** What an honest instance does: dials, asks for the upgrade, and serves HTTP/2 on the connection. */
export class Gateway {
  readonly server: Http2Server;
  socket: Socket | undefined;
  session: ServerHttp2Session | undefined;

  constructor(onRequest: (request: http2.Http2ServerRequest, response: http2.Http2ServerResponse) => void) {
    this.server = http2.createServer(onRequest);
    this.server.on('session', (session) => {
      this.session = session;
      session.on('error', () => {});
    });
    this.server.on('sessionError', () => {});
  }

  async dial(socketPath: string, token: string): Promise<void> {
    const { socket, head } = await upgrade(socketPath, token);
    this.socket = socket;
    socket.on('error', () => {});
    if (head.length > 0) socket.unshift(head);
    this.server.emit('connection', socket);
  }

  close(): void {
    this.socket?.destroy();
  }
}

export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly retryAfter: string | undefined,
  ) {
    super(`refused with ${status}`);
  }
}

export function upgrade(socketPath: string, token: string): Promise<{ socket: Socket; head: Buffer }> {
  return new Promise((resolve, reject) => {
    const request = http.request({
      socketPath,
      path: '/link',
      headers: {
        host: 'berth',
        connection: 'Upgrade',
        upgrade: 'berth-link',
        authorization: `Bearer ${token}`,
        'x-berth-protocol': '1',
      },
    });
    request.once('upgrade', (_response, socket, head) => resolve({ socket, head }));
    request.once('response', (response) => {
      response.resume();
      reject(new Refused(response.statusCode ?? 0, response.headers['retry-after']));
    });
    request.once('error', reject);
    request.end();
  });
}

/** A plain call of an instance on its socket. */
export function call(
  socketPath: string,
  token: string,
  options: { path?: string; method?: string; body?: string } = {},
): Promise<{ status: number; body: string; headers: http.IncomingHttpHeaders }> {
  return new Promise((resolve, reject) => {
    const request = http.request(
      {
        socketPath,
        path: options.path ?? '/v1/chat/completions',
        method: options.method ?? 'POST',
        headers: { authorization: `Bearer ${token}` },
        agent: false,
      },
      (response) => {
        let body = '';
        response.setEncoding('utf8');
        response.on('data', (chunk) => (body += chunk));
        response.on('end', () => resolve({ status: response.statusCode ?? 0, body, headers: response.headers }));
        response.on('error', reject);
      },
    );
    request.once('error', reject);
    request.end(options.body);
  });
}

/** Waits until `check` holds; the test's own time-out is the limit. */
export async function until(check: () => boolean | undefined, what: string, limitMs = 20_000): Promise<void> {
  const startedMs = performance.now();
  while (!check()) {
    if (performance.now() - startedMs > limitMs) throw new Error(`waited in vain for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
