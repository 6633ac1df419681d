import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bundleGateway } from '../../scripts/build/bundle.js';

/** The gateway as the image has it, in a folder of the caller's own. */
export async function bundledGateway(): Promise<string> {
  const outfile = join(mkdtempSync(join(tmpdir(), 'bg-')), 'gateway.cjs');
  await bundleGateway(outfile);
  return outfile;
}

export const MEMORY_FLAGS = ['--max-semi-space-size=1', '--max-old-space-size=64', '--v8-pool-size=1'];

/** Another Node than the tests' own to run the gateway on: the image has Node 24. */
const NODE = process.env['GATEWAY_NODE'] ?? process.execPath;

/** The bundled gateway as a child process with a data folder of its own. */
export class GatewayProcess {
  readonly dataDir: string;
  readonly #bundle: string;
  readonly #env: Record<string, string>;
  child!: ChildProcess;
  /** All it wrote to stdout and stderr. */
  output = '';

  constructor(bundle: string, linkDir: string, env: Record<string, string> = {}) {
    this.#bundle = bundle;
    this.dataDir = mkdtempSync(join(tmpdir(), 'bd-'));
    this.#env = {
      BERTH_LINK_DIR: linkDir,
      BERTH_DATA_DIR: this.dataDir,
      BERTH_INSTANCE: 'ins_test',
      BERTH_PROXY_PORT: 'off',
      ...env,
    };
  }

  start(): this {
    const env = { PATH: process.env['PATH'] ?? '', ...this.#env };
    this.child = spawn(NODE, [...MEMORY_FLAGS, this.#bundle], { env, stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [this.child.stdout, this.child.stderr])
      stream?.setEncoding('utf8').on('data', (text: string) => (this.output += text));
    return this;
  }

  /** Ends it and gives its exit code, or the signal that ended it. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | string | null> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return this.child.exitCode ?? this.child.signalCode;
    const exited = once(this.child, 'exit') as Promise<[number | null, string | null]>;
    this.child.kill(signal);
    const [code, by] = await exited;
    return code ?? by;
  }

  async remove(): Promise<void> {
    await this.stop('SIGKILL');
    rmSync(this.dataDir, { recursive: true, force: true });
  }

  /** What it may have resident after a hundred turns: Node 24 needs more from the start. */
  get memoryBoundBytes(): number {
    const major = Number(/"node":"v(\d+)/.exec(this.output)?.[1]);
    return (major >= 24 ? 80 : 64) * 1024 * 1024;
  }

  /** Resident memory in bytes, as the kernel counts it. */
  residentBytes(): number {
    const status = readFileSync(`/proc/${this.child.pid}/status`, 'utf8');
    return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) * 1024;
  }
}
