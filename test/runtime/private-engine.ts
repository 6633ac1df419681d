import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { eventually } from './harness.js';

const run = promisify(execFile);

/**
 * A container engine of a test's own, to be stopped, frozen and filled up: in a network namespace of its own, since a second
 * engine would rewrite the first one's packet filter, and with its data in memory. Needs root, as the engine does.
 */
export class PrivateEngine {
  readonly #folder: string;
  #daemon: ChildProcess | undefined;

  readonly #namespaces: string[];

  private constructor(folder: string, namespaces: string[]) {
    this.#folder = folder;
    this.#namespaces = namespaces;
  }

  /** `apart`: it does not see what others mount later either, as one in a container or under a service's own mounts. */
  static async create(sizeMib: number, { apart = false } = {}): Promise<PrivateEngine> {
    const namespaces = ['--net', ...(apart ? ['--mount', '--propagation', 'private'] : [])];
    const engine = new PrivateEngine(await mkdtemp(join(tmpdir(), 'berth-engine-')), namespaces);
    await mkdir(engine.dataRoot);
    await run('mount', ['-t', 'tmpfs', '-o', `size=${sizeMib}m`, 'tmpfs', engine.dataRoot]);
    return engine;
  }

  get host(): string {
    return `unix://${join(this.#folder, 'docker.sock')}`;
  }

  get dataRoot(): string {
    return join(this.#folder, 'data');
  }

  /** Starts it unless it runs. */
  async start(): Promise<void> {
    if (this.#daemon && this.#daemon.exitCode === null && this.#daemon.signalCode === null) return;
    const args = ['--host', this.host, '--data-root', this.dataRoot, '--exec-root', join(this.#folder, 'exec')];
    const alone = ['--pidfile', join(this.#folder, 'pid'), '--bridge', 'none', '--iptables=false', '--ip-masq=false'];
    this.#daemon = spawn('unshare', [...this.#namespaces, 'dockerd', ...args, ...alone], { stdio: 'ignore' });
    await eventually(() => run('docker', ['-H', this.host, 'version']), 30_000);
  }

  /** Ends the engine as an operator would; its containers end with it. */
  async stop(): Promise<void> {
    const daemon = this.#daemon;
    if (!daemon || daemon.exitCode !== null || daemon.signalCode !== null) return;
    daemon.kill('SIGTERM');
    await once(daemon, 'exit');
  }

  freeze(): void {
    this.#daemon?.kill('SIGSTOP');
  }

  thaw(): void {
    this.#daemon?.kill('SIGCONT');
  }

  async dispose(): Promise<void> {
    this.thaw();
    await this.stop();
    await run('umount', ['--lazy', this.dataRoot]);
    await rm(this.#folder, { recursive: true, force: true });
  }
}
