import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { bundleBerth } from '../../scripts/build/bundle.js';
import { createLog } from '../../src/lib/log.js';
import { DockerRuntime } from '../../src/runtime/docker/docker.js';
import { ProcessRuntime } from '../../src/runtime/process/process.js';
import type { Runtime } from '../../src/runtime/runtime.js';
import { until } from './until.js';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const run = promisify(execFile);
let built: Promise<unknown> | undefined;
let bundled: Promise<unknown> | undefined;

/** Berth as operators start it: its own process, started, killed and started again on the same folder and database. */
export class BerthProcess {
  readonly dataDir: string;
  readonly url: string;
  readonly #env: Record<string, string>;
  #child: ChildProcess | undefined;
  #output = '';

  private constructor(dataDir: string, port: number, env: Record<string, string>) {
    this.dataDir = dataDir;
    this.url = `http://127.0.0.1:${port}`;
    this.#env = {
      PORT: String(port),
      DATA_DIR: dataDir,
      LOG_LEVEL: 'info',
      ORPHAN_GRACE_MS: '0',
      POOL_SIZE: '0',
      DISK_LIMITS: 'soft',
      UNDELETE_HOURS: '0',
      ...env,
    };
  }

  /** Prepares one without starting it. `dataDir`: that of another process, to stand beside it. */
  static async prepare(env: Record<string, string>, dataDir?: string): Promise<BerthProcess> {
    await (built ??= bundleBerth(join(ROOT, 'dist')));
    if (env.RUNTIME === 'process') await (bundled ??= run('bash', ['scripts/agent-image', 'bundle'], { cwd: ROOT }));
    return new BerthProcess(dataDir ?? (await mkdtemp(join(tmpdir(), 'bp-'))), await freePort(), env);
  }

  /** What it printed so far. */
  get output(): string {
    return this.#output;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Starts it and waits until it answers. */
  async start(): Promise<void> {
    const child = spawn(process.execPath, ['dist/berth.mjs'], {
      cwd: ROOT,
      env: { PATH: process.env.PATH ?? '', ...this.#env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#child = child;
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (bytes: Buffer) => (this.#output = (this.#output + bytes.toString()).slice(-200_000)));
    await until(
      async () => {
        if (child.exitCode !== null) throw new Error(`Berth ended with ${child.exitCode}: ${this.#output.slice(-2_000)}`);
        return fetch(`${this.url}/health`).then(
          (response) => response.ok,
          () => false,
        );
      },
      () => `Berth to answer: ${this.#output.slice(-2_000)}`,
      240_000,
    );
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    child.kill(signal);
    await once(child, 'exit');
  }

  signal(signal: NodeJS.Signals): void {
    this.#child?.kill(signal);
  }

  async adminKey(): Promise<string> {
    return (await readFile(join(this.dataDir, 'admin.key'), 'utf8')).trim();
  }

  async installationId(): Promise<string> {
    return (await readFile(join(this.dataDir, 'installation.id'), 'utf8')).trim();
  }

  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  async call(method: string, path: string, key: string, body?: unknown): Promise<{ status: number; json: any }> {
    const response = await fetch(`${this.url}${path}`, {
      method,
      headers: { 'x-api-key': key, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    return { status: response.status, json: text === '' ? undefined : JSON.parse(text) };
  }

  /** What the engine holds of this installation. */
  async engine<T>(use: (runtime: Runtime) => Promise<T>): Promise<T> {
    const runtime = this.#runtime(await this.installationId());
    try {
      return await use(runtime);
    } finally {
      await runtime.close();
    }
  }

  #runtime(installationId: string): Runtime {
    const common = { installationId, log: createLog('silent') };
    const dockerHost = this.#env.DOCKER_HOST;
    if (this.#env.RUNTIME !== 'process') return new DockerRuntime({ ...common, ...(dockerHost ? { dockerHost } : {}) });
    return new ProcessRuntime({ ...common, dataDir: join(this.dataDir, 'process'), gatewayPath: '' });
  }

  /** Kills it and removes its folder and everything it has in the engine. */
  async destroy(): Promise<void> {
    await this.kill();
    if (await readFile(join(this.dataDir, 'installation.id')).catch(() => undefined)) {
      await this.engine(async (runtime) => {
        const { instances, volumes } = await runtime.list();
        for (const instance of instances) await runtime.remove(instance.name);
        for (const volume of volumes) await runtime.removeVolume(volume.name);
      });
    }
    await rm(this.dataDir, { recursive: true, force: true });
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}
