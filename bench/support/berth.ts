import { randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile } from 'node:fs/promises';
import { Agent, type ClientRequest, request as httpRequest } from 'node:http';
import type { NetConnectOpts } from 'node:net';
import { join } from 'node:path';
import pg from 'pg';
import { migrate } from '../../src/db/migrate.js';
import { openDatabase } from '../../src/db/open.js';
import { createLog } from '../../src/lib/log.js';
import { DockerRuntime } from '../../src/runtime/docker/docker.js';
import { ProcessRuntime } from '../../src/runtime/process/process.js';
import { buildBerth } from './build.js';
import { messageFor, type Wish } from './canned.js';
import { Child } from './child.js';
import { requestText } from './connection.js';
import type { Scope } from './scope.js';
import type { Target } from './streams.js';
import { freePort, makeFolder, MEMORY_MIB } from './world.js';

export type DatabaseKind = 'pglite' | 'postgres';

export interface BerthOptions {
  runtime: 'docker' | 'process';
  /** URL of a server on which a database of this Berth's own is made; without it the embedded one is used. */
  postgres?: string | undefined;
  upstreamPort?: number;
  env?: Record<string, string>;
  /** Options of Node. */
  flags?: string[];
}

const TIER = 'business';
const keptAlive = new Agent({ keepAlive: true });

/** Berth as operators run it, a process of its own, with limits that no benchmark meets. */
export class Berth {
  readonly dataDir: string;
  readonly port: number;
  /** Where its database is, if it is on a server. */
  readonly databaseUrl: string | undefined;
  readonly #adminKey: string;
  readonly #begin: () => Promise<Child>;
  #child: Child;

  private constructor(
    parts: Pick<Berth, 'dataDir' | 'port' | 'databaseUrl'> & { adminKey: string; begin: () => Promise<Child>; child: Child },
  ) {
    this.dataDir = parts.dataDir;
    this.port = parts.port;
    this.databaseUrl = parts.databaseUrl;
    this.#adminKey = parts.adminKey;
    this.#begin = parts.begin;
    this.#child = parts.child;
  }

  static async start(scope: Scope, options: BerthOptions): Promise<Berth> {
    const dataDir = join(await makeFolder(scope), 'd');
    await mkdir(dataDir);
    const databaseUrl = await prepareDatabase(dataDir, options.postgres);
    const port = await freePort();
    const adminKey = randomBytes(32).toString('hex');
    const env = {
      PORT: String(port),
      DATA_DIR: dataDir,
      POOL_SIZE: '0',
      // What removes its volumes afterwards is not Berth, which alone takes hard ones away.
      DISK_LIMITS: 'soft',
      RUNTIME: options.runtime,
      ADMIN_API_KEY: adminKey,
      ...(databaseUrl === undefined ? {} : { DATABASE_URL: databaseUrl }),
      ...(options.upstreamPort === undefined
        ? {}
        : { OPENAI_API_KEY: 'none', OPENAI_BASE_URL: `http://127.0.0.1:${options.upstreamPort}/v1` }),
      ...options.env,
    };
    const flags = [...(options.flags ?? []), ...profilingFlags()];
    const { main } = await buildBerth();
    const begin = () => Child.start([...flags, main], env, join(dataDir, 'berth.log'));
    const berth = new Berth({ dataDir, port, databaseUrl, adminKey, begin, child: await begin() });
    scope.add(() => berth.#end(options.runtime));
    await berth.#untilHealthy();
    return berth;
  }

  /** Its process. */
  get child(): Child {
    return this.#child;
  }

  /** A connection to its database on a server, beside its own. */
  async lookInto(scope: Scope): Promise<pg.Client> {
    const client = new pg.Client({ connectionString: this.databaseUrl });
    await client.connect();
    scope.add(() => client.end());
    return client;
  }

  /** Kills it, and starts it again on the same folder and database; answers once it answers. */
  async startAgain(): Promise<void> {
    await this.#child.stop('SIGKILL');
    this.#child = await this.#begin();
    await this.#untilHealthy();
  }

  #untilHealthy(): Promise<boolean> {
    return this.#child.until(() =>
      fetch(`${this.url}/health`).then(
        (answer) => answer.ok || undefined,
        () => undefined,
      ),
    );
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  // oxlint-disable-next-line typescript/no-explicit-any -- read freely
  async call(method: string, path: string, key = this.#adminKey, body?: unknown): Promise<any> {
    const headers = { 'x-api-key': key, ...(body === undefined ? {} : { 'content-type': 'application/json' }) };
    const answer = await fetch(`${this.url}${path}`, {
      method,
      headers,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${method} ${path} answered ${answer.status}: ${text}`);
    return JSON.parse(text);
  }

  async user(name: string): Promise<{ id: string; key: string }> {
    const made = await this.call('POST', '/api/v1/users', undefined, { name, tier: TIER });
    return { id: made.id, key: made.api_key };
  }

  /** Agents that are ready, each in an instance of its own: one instance has limits that a benchmark would meet. */
  async agents(count: number, model = 'openai/bench'): Promise<BerthAgent[]> {
    const user = await this.user('bench');
    const names = Array.from({ length: count }, (_, i) => `agent${i}`);
    await this.call(
      'POST',
      `/api/v1/users/${user.id}/agents`,
      user.key,
      names.map((name) => ({ name, model, isolation: 'dedicated' })),
    );
    await this.child.until(async () => {
      const status = await this.call('GET', `/api/v1/users/${user.id}/deploy/status`, user.key);
      return status.settled === true ? true : undefined;
    });
    return names.map((name) => new BerthAgent(this, user.key, name));
  }

  /** Socket and token of each instance, as it finds them. */
  async instances(): Promise<{ socket: string; token: string }[]> {
    const dir = join(this.dataDir, 'link');
    const found: { socket: string; token: string }[] = [];
    for (const id of await readdir(dir)) {
      const socket = (await readdir(join(dir, id))).find((name) => name.endsWith('.sock'));
      if (socket) found.push({ socket: join(dir, id, socket), token: (await readFile(join(dir, id, 'token'), 'utf8')).trim() });
    }
    return found;
  }

  async #end(kind: 'docker' | 'process'): Promise<void> {
    await this.child.stop();
    const installationId = (await readFile(join(this.dataDir, 'installation.id'), 'utf8')).trim();
    const log = createLog('silent');
    const processes = { installationId, dataDir: join(this.dataDir, 'process'), gatewayPath: '', log, allowTools: false };
    const runtime = kind === 'docker' ? new DockerRuntime({ installationId, log }) : new ProcessRuntime(processes);
    const { instances, volumes } = await runtime.list();
    for (const { name } of instances) await runtime.remove(name);
    for (const { name } of volumes) await runtime.removeVolume(name);
    await runtime.close();
  }
}

/** An agent, talked to by the streamed chat. */
export class BerthAgent implements Target {
  readonly name: string;
  readonly address: NetConnectOpts;
  readonly pid: number;
  readonly key: string;
  readonly #berth: Berth;
  readonly #more: object;

  /** `more`: what its requests say beside the message. */
  constructor(berth: Berth, key: string, name: string, more: object = {}) {
    this.address = { host: '127.0.0.1', port: berth.port };
    this.pid = berth.child.pid;
    this.key = key;
    this.#berth = berth;
    this.name = name;
    this.#more = more;
  }

  /** The same, by streams that can be resumed. */
  resumable(): BerthAgent {
    return new BerthAgent(this.#berth, this.key, this.name, { resumable: true });
  }

  /** A request for a file of its workspace, whose body the caller sends. */
  open(method: string, path: string, headers: Record<string, string | number> = {}): ClientRequest {
    const { port } = this.address as { port: number };
    const target = `/api/v1/users/me/agents/${this.name}/files/${path}`;
    return httpRequest({ port, method, path: target, headers: { 'x-api-key': this.key, ...headers }, agent: keptAlive });
  }

  request(wish: Wish, conversation?: string): string {
    const body = {
      messages: [{ role: 'user', content: messageFor(wish) }],
      ...(conversation === undefined ? {} : { conversation_id: conversation }),
      ...this.#more,
    };
    return requestText(
      'POST',
      `/api/v1/users/me/agents/${this.name}/chat/stream`,
      { 'x-api-key': this.key },
      JSON.stringify(body),
    );
  }
}

/** BENCH_NODE_FLAGS, as in `--cpu-prof --cpu-prof-dir=…`: what is measured, looked at from inside. */
export function profilingFlags(): string[] {
  return process.env['BENCH_NODE_FLAGS']?.split(' ') ?? [];
}

/** A migrated database whose tier has no limits that matter; its URL, where it is on a server. */
export async function prepareDatabase(dataDir: string, server: string | undefined): Promise<string | undefined> {
  let databaseUrl: string | undefined;
  if (server !== undefined) {
    const name = `bench_${randomBytes(6).toString('hex')}`;
    const client = new pg.Client({ connectionString: server });
    await client.connect();
    await client.query(`create database ${name}`);
    await client.end();
    databaseUrl = server.replace(/(:\/\/[^/]*\/)[^?]*/, `$1${name}`);
  }
  const database = await openDatabase({ databaseUrl, dataDir, log: createLog('silent') });
  await migrate(database.db);
  const limits = {
    requests_per_minute: 100_000_000,
    max_agents: 10_000,
    memory_mib: MEMORY_MIB,
    cpu_millis: 1_000,
    pids: 256,
    tokens_per_month: null,
  };
  await database.db.updateTable('tiers').set(limits).where('name', '=', TIER).execute();
  await database.close();
  return databaseUrl;
}
