import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type NetConnectOpts } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { heapMib } from '../../src/runtime/heap.js';
import { buildBerth, buildProgram } from './build.js';
import { Child } from './child.js';
import { requestText } from './connection.js';
import { messageFor, type Wish } from './canned.js';
import type { Scope } from './scope.js';
import type { Target } from './streams.js';

const run = promisify(execFile);
const POSTGRES = fileURLToPath(new URL('../../scripts/postgres', import.meta.url));
/** Of the tier that benchmarks run in: the gateways that are called directly get the same heap. */
export const MEMORY_MIB = 1024;

/** A folder of the benchmark's own; the path of a socket below it must stay short. */
export async function makeFolder(scope: Scope): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'bb-'));
  scope.add(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** A Postgres server of the benchmark's own; its URL. */
export async function startPostgres(scope: Scope): Promise<string> {
  const folder = await makeFolder(scope);
  const { stdout } = await run(POSTGRES, ['up', folder]);
  scope.add(() => run(POSTGRES, ['down', folder]));
  return stdout.trim();
}

/** The canned upstream; its base URL. `sockets`: where it stands in for Berth as well. */
export async function startUpstream(
  scope: Scope,
  folder: string,
  sockets: string[] = [],
): Promise<{ port: number; pid: number }> {
  const child = await Child.start([await buildProgram('upstream'), ...sockets], {}, join(folder, 'upstream.log'));
  scope.add(() => child.stop('SIGKILL'));
  const { port } = await child.said<{ port: number }>('port');
  return { port, pid: child.pid };
}

/** The very gateway that instances run, called without Berth. Its model calls go to the canned upstream. */
export class DirectGateway implements Target {
  readonly name = 'gateway directly';
  readonly address: NetConnectOpts;
  readonly pid: number;
  readonly #token: string;

  private constructor(port: number, pid: number, token: string) {
    this.address = { host: '127.0.0.1', port };
    this.pid = pid;
    this.#token = token;
  }

  /** Makes a folder for a gateway; the path in it is where the upstream must listen. */
  static async prepare(folder: string): Promise<string> {
    await mkdir(join(folder, 'link'), { recursive: true });
    return join(folder, 'link', 'upstream.sock');
  }

  static async start(scope: Scope, folder: string): Promise<DirectGateway> {
    const token = randomBytes(16).toString('hex');
    await writeFile(join(folder, 'link', 'token'), token);
    const port = await freePort();
    const { gateway } = await buildBerth();
    const env = {
      NODE_OPTIONS: `--max-old-space-size=${heapMib(MEMORY_MIB)}`,
      HOME: folder,
      BERTH_INSTANCE: 'ins_bench',
      BERTH_LINK_DIR: join(folder, 'link'),
      BERTH_DATA_DIR: folder,
      BERTH_PROXY_PORT: 'off',
      BERTH_SHELL: 'off',
      BERTH_FETCH: 'off',
      BERTH_GATEWAY_LISTEN: `127.0.0.1:${port}`,
    };
    const child = await Child.start([gateway], env, join(folder, 'gateway.log'));
    scope.add(() => child.stop('SIGKILL'));
    const config = { version: 1, agents: [{ id: 'bench', incarnation: 'agt_bench', model: 'openai/bench' }] };
    await child.until(async () => {
      const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
      const answer = await fetch(`http://127.0.0.1:${port}/berth/v1/config`, {
        method: 'PUT',
        headers,
        body: JSON.stringify(config),
      }).catch(() => undefined);
      return answer?.ok ? true : undefined;
    });
    return new DirectGateway(port, child.pid, token);
  }

  /** Without a conversation each turn is the first of a new one, as it is at Berth. */
  request(wish: Wish, conversation = randomBytes(8).toString('hex')): string {
    const body = {
      model: 'openclaw/bench',
      user: conversation,
      stream: true,
      messages: [{ role: 'user', content: messageFor(wish) }],
    };
    return requestText('POST', '/v1/chat/completions', { authorization: `Bearer ${this.#token}` }, JSON.stringify(body));
  }
}
