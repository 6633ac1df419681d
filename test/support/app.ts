import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { getRequestListener } from '@hono/node-server';
import type { AppOptions } from '../../src/app-options.js';
import { type App, createApp } from '../../src/app.js';
import { type Config, readConfig } from '../../src/config.js';
import { newKeyText } from '../../src/domains/api-keys/key-text.js';
import { type Installation, openInstallation } from '../../src/domains/installation/installation.js';
import { refuseBadHttp, SERVER_OPTIONS } from '../../src/http/server.js';
import { serveSockets } from '../../src/http/sockets.js';
import { newId } from '../../src/lib/ids.js';
import { createLog } from '../../src/lib/log.js';
import { DockerRuntime } from '../../src/runtime/docker/docker.js';
import { FakeEngine } from '../../src/runtime/fake/engine.js';
import { FakeRuntime } from '../../src/runtime/fake/fake.js';
import { ProcessRuntime } from '../../src/runtime/process/process.js';
import type { Runtime } from '../../src/runtime/runtime.js';
import { KeyFiles } from '../../src/vault/key-files.js';
import { Vault } from '../../src/vault/vault.js';
import { bundledGateway } from '../agent-image/gateway.js';
import { type DatabaseKind, testDatabase, type TestDatabase } from './database.js';
import { FakeGateways } from './fake-gateway.js';
import { until } from './until.js';

export interface TestAppOptions {
  database?: DatabaseKind | TestDatabase;
  /** `fake`: in memory, with a small gateway in this process. `process`: the real gateway as a child. `docker`: the real thing. */
  runtime?: 'fake' | 'process' | 'docker';
  /** Share it between two apps, or with a test that breaks it. */
  engine?: FakeEngine;
  /** The programs of fake instances, where they are to outlive the app. */
  gateways?: FakeGateways;
  /** Stands between the app and its runtime. */
  around?: (runtime: Runtime) => Runtime;
  /** Another app on the same database: its folder, keys and installation. */
  beside?: TestApp;
  env?: Record<string, string>;
  app?: Partial<AppOptions>;
}

const ENDLESS = { memoryMib: 1_000_000, availableMib: 1_000_000, diskFreeMib: undefined };

export interface Answer {
  status: number;
  headers: Headers;
  text: string;
  /** The body as JSON; throws where it is none. */
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  json: any;
}

export interface CallOptions {
  key?: string | undefined;
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

/** The real app on a real database, spoken to by HTTP as a user would. */
export class TestApp {
  readonly url: string;
  readonly adminKey: string;
  readonly database: TestDatabase;
  readonly runtime: Runtime;
  readonly engine: FakeEngine;
  readonly gateways: FakeGateways;
  readonly installation: Installation;
  readonly masterKey: Buffer;
  readonly config: Config;
  readonly dataDir: string;
  readonly #app: App;
  readonly #server: Server;
  readonly #closeSockets: () => void;
  readonly #owns: boolean;
  #stopped = false;
  #left = false;

  constructor(
    parts: Pick<
      TestApp,
      'url' | 'adminKey' | 'database' | 'runtime' | 'engine' | 'gateways' | 'installation' | 'masterKey' | 'config' | 'dataDir'
    >,
    app: App,
    server: Server,
    closeSockets: () => void,
    owns: boolean,
  ) {
    this.url = parts.url;
    this.adminKey = parts.adminKey;
    this.database = parts.database;
    this.runtime = parts.runtime;
    this.engine = parts.engine;
    this.gateways = parts.gateways;
    this.installation = parts.installation;
    this.masterKey = parts.masterKey;
    this.config = parts.config;
    this.dataDir = parts.dataDir;
    this.#app = app;
    this.#server = server;
    this.#closeSockets = closeSockets;
    this.#owns = owns;
  }

  async call(method: string, path: string, options: CallOptions = {}): Promise<Answer> {
    const { key, body, headers = {}, signal } = options;
    const response = await fetch(`${this.url}${path}`, {
      method,
      headers: {
        ...(key === undefined ? {} : { 'x-api-key': key }),
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
      ...(signal ? { signal } : {}),
    });
    const text = await response.text();
    return {
      status: response.status,
      headers: response.headers,
      text,
      get json() {
        return JSON.parse(text);
      },
    };
  }

  get(path: string, key?: string, headers?: Record<string, string>): Promise<Answer> {
    return this.call('GET', path, { key, ...(headers ? { headers } : {}) });
  }

  post(path: string, key: string | undefined, body: unknown, headers?: Record<string, string>): Promise<Answer> {
    return this.call('POST', path, { key, body, ...(headers ? { headers } : {}) });
  }

  /** A user by the admin's hand. */
  async user(name = `u${randomBytes(4).toString('hex')}`, tier = 'pro'): Promise<{ id: string; name: string; key: string }> {
    const answer = await this.post('/api/v1/users', this.adminKey, { name, tier });
    if (answer.status !== 201) throw new Error(`creating a user answered ${answer.status}: ${answer.text}`);
    return { id: answer.json.id, name, key: answer.json.api_key };
  }

  /** An agent of that user; `ready` waits until it can be talked to. */
  async agent(
    user: { id: string; key: string },
    name: string,
    more: object = {},
  ): Promise<{ id: string; name: string; key: string; deploymentId: string }> {
    const answer = await this.post(`/api/v1/users/${user.id}/agents`, user.key, { name, ...more });
    if (answer.status !== 202) throw new Error(`creating an agent answered ${answer.status}: ${answer.text}`);
    return { id: answer.json.id, name, key: answer.json.api_key, deploymentId: answer.json.deployment_id };
  }

  /** Waits until every deployment of the user is ready. */
  async ready(user: { id: string; key: string }, withinMs = 30_000): Promise<void> {
    let last = '';
    await until(
      async () => {
        const answer = await this.get(`/api/v1/users/${user.id}/deploy/status`, user.key);
        last = answer.text;
        return answer.status === 200 && answer.json.settled === true;
      },
      () => `the deployments to settle: ${last}`,
      withinMs,
    );
  }

  /** Ends this process's part, as a clean stop of Berth does; instances, folder and database stay. */
  async leave(): Promise<void> {
    this.#app.endStreams();
    this.#closeSockets();
    this.#server.closeAllConnections();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
    await this.#app.stop();
    this.#left = true;
  }

  /** Ends the app, and its folder and database where they are its own. */
  async stop(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    if (!this.#left) await this.leave();
    await this.gateways.close();
    if (!this.#owns) return;
    await this.#removeInstances();
    await this.database.close();
    await rm(this.dataDir, { recursive: true, force: true });
  }

  async #removeInstances(): Promise<void> {
    if (this.runtime.name === 'fake') return;
    const runtime = makeRuntime(this.runtime.name, {
      installationId: this.installation.id,
      gatewayPath: '',
      engine: this.engine,
      gateways: this.gateways,
      config: this.config,
    });
    const { instances, volumes } = await runtime.list();
    for (const instance of instances) await runtime.remove(instance.name);
    for (const volume of volumes) await runtime.removeVolume(volume.name);
    await runtime.close();
  }
}

/** Starts the app. What it needs and is not given is made, and is gone after `stop`. */
export async function startApp(options: TestAppOptions = {}): Promise<TestApp> {
  const { beside } = options;
  const database = await databaseFor(options);
  // The path of a socket below it has 108 bytes at most.
  const dataDir = beside?.dataDir ?? (await mkdtemp(join(tmpdir(), 'bt-')));
  const { config, secrets } = readConfig({
    DATA_DIR: dataDir,
    READY_TIMEOUT_MS: '30000',
    POOL_SIZE: '0',
    DISK_LIMITS: 'soft',
    REPLACE_PROBATION_MS: '300',
    ORPHAN_GRACE_MS: '0',
    UNDELETE_HOURS: '0',
    AGENT_IMAGE: 'berth-agent:latest',
    // Nobody's: no test asks a registry of the internet.
    CLAWHUB_URL: 'http://127.0.0.1:9',
    ...options.env,
  });
  const masterKey = beside?.masterKey ?? randomBytes(32);
  if (!beside) await writeFile(join(dataDir, 'master.key'), masterKey.toString('base64'), { mode: 0o600 });
  const keyFiles = new KeyFiles(dataDir);
  const vault = await Vault.open({ masterKey: Buffer.from(masterKey), read: () => keyFiles.readAll() });
  const installation = await openInstallation({ db: database.db, vault, dataDir });
  const adminKey = beside?.adminKey ?? newKeyText('admin', newId('key'));
  const engine = options.engine ?? beside?.engine ?? new FakeEngine();
  const gateways = options.gateways ?? new FakeGateways();
  const kind = options.runtime ?? 'fake';
  const gatewayPath = kind === 'process' ? await bundledGateway() : '';
  const runtime = makeRuntime(kind, { installationId: installation.id, gatewayPath, engine, gateways, config });
  const log = createLog(process.env.TEST_LOG_LEVEL ?? 'silent');
  const seenRuntime = options.around?.(runtime) ?? runtime;
  const processId = `p${randomBytes(4).toString('hex')}`;
  const app = createApp({
    config,
    secrets: { openaiApiKey: undefined, anthropicApiKey: undefined, smtpUrl: secrets.smtpUrl },
    adminKey,
    database,
    vault,
    keyFiles,
    installation,
    runtime: seenRuntime,
    processId,
    version: '0.0.0-test',
    log,
    reconciler: { passEveryMs: 200, sweepEveryMs: 1_000 },
    // What the machine of the tests has left is nobody's business, but where something real is to run on it.
    ...(kind === 'fake' ? { host: async () => ENDLESS } : {}),
    ...options.app,
  });
  await app.start();
  const server = createServer(SERVER_OPTIONS, getRequestListener(app.edge.fetch, { errorHandler: app.edge.refuse }));
  server.on('clientError', refuseBadHttp);
  const closeSockets = serveSockets(server, app.edge.fetch);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return new TestApp(
    { url, adminKey, database, runtime, engine, gateways, installation, masterKey, config, dataDir },
    app,
    server,
    closeSockets,
    beside === undefined && typeof options.database !== 'object',
  );
}

async function databaseFor({ database, beside }: TestAppOptions): Promise<TestDatabase> {
  if (beside) return beside.database;
  if (typeof database === 'object') return database;
  return testDatabase(database ?? 'pglite');
}

interface RuntimeParts {
  installationId: string;
  gatewayPath: string;
  engine: FakeEngine;
  gateways: FakeGateways;
  config: Config;
}

function makeRuntime(kind: 'fake' | 'process' | 'docker', parts: RuntimeParts): Runtime {
  const { installationId, gatewayPath, engine, gateways, config } = parts;
  const { dataDir, dockerHost } = config;
  const log = createLog('silent');
  const disks = { dir: config.diskDir, limits: config.diskLimits };
  if (kind === 'docker') return new DockerRuntime({ installationId, log, disks, ...(dockerHost ? { dockerHost } : {}) });
  if (kind === 'process')
    return new ProcessRuntime({ installationId, dataDir: join(dataDir, 'process'), gatewayPath, log, allowTools: true });
  return new FakeRuntime({
    installationId,
    engine,
    onStart: (spec, process) => gateways.begin(spec, process),
    onStop: (spec) => gateways.end(spec),
  });
}
