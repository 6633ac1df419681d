import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';

/** Addresses of the world that would answer, if only they were dialled. Nothing of Berth ever may. */
export const FORBIDDEN = ['10.0.0.5', '169.254.169.254', '100.64.0.5', '192.168.7.7', '93.184.217.1'];

/** Namespaces take root: a developer without it sees `skipped`. Where there is root, missing tools are a failure. */
export const canSplit = process.platform === 'linux' && process.getuid?.() === 0;

let made = 0;

/**
 * Two network namespaces, joined by a cable and without any way out: one for whatever is to be looked at, and the world, where upstreams have
 * globally routable addresses, with a name server, and forbidden addresses beside them (world.mjs).
 */
export class Internet {
  /** A folder that goes with it; its path is short enough for sockets. */
  readonly dir = mkdtempSync(path.join(tmpdir(), 'be-'));
  /** Every connection that reached the world. */
  readonly reached: { address: string; port: number }[] = [];
  readonly #inside: string;
  readonly #outside: string;
  readonly #tag: string;
  readonly #children: ChildProcess[] = [];

  private constructor() {
    this.#tag = `bt${process.pid % 100_000}${made++ === 0 ? '' : made}`;
    this.#inside = `${this.#tag}p`;
    this.#outside = `${this.#tag}w`;
  }

  /** `files` makes a folder, within the one it is given, whose files the world's web servers serve. */
  static async start({ files }: { files?: (dir: string) => string } = {}): Promise<Internet> {
    const internet = new Internet();
    internet.#connect();
    await internet.#startWorld(files?.(internet.dir));
    return internet;
  }

  /** Runs a script of this repository inside; it has the world's name server as its own. */
  run(script: string, args: string[], env: Record<string, string> = {}): ChildProcess {
    return this.#spawn(this.#inside, ['--import', 'tsx', script, ...args], env);
  }

  /** What reached an address that nobody may reach. */
  wrong(): { address: string; port: number }[] {
    return this.reached.filter((each) => FORBIDDEN.some((address) => each.address.endsWith(address)));
  }

  async endChildren(): Promise<void> {
    for (const child of this.#children) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
  }

  async stop(): Promise<void> {
    await this.endChildren();
    for (const namespace of [this.#inside, this.#outside]) ip('netns', 'del', namespace);
    rmSync(`/etc/netns/${this.#inside}`, { recursive: true, force: true });
    rmSync(this.dir, { recursive: true, force: true });
  }

  #connect(): void {
    const [tag, inside, outside] = [this.#tag, this.#inside, this.#outside];
    ip('netns', 'add', inside);
    ip('netns', 'add', outside);
    // What runs inside sees this in place of the machine's own file.
    mkdirSync(`/etc/netns/${inside}`, { recursive: true });
    writeFileSync(`/etc/netns/${inside}/resolv.conf`, 'nameserver 9.9.9.9\n');
    ip('link', 'add', `${tag}a`, 'netns', inside, 'type', 'veth', 'peer', 'name', `${tag}b`, 'netns', outside);
    const p = (...args: string[]) => ip('-n', inside, ...args);
    const w = (...args: string[]) => ip('-n', outside, ...args);
    for (const [run, device, four, six] of [
      [p, `${tag}a`, '45.33.1.1/24', '2606:2900::1/64'],
      [w, `${tag}b`, '45.33.1.2/24', '2606:2900::2/64'],
    ] as const) {
      run('link', 'set', 'lo', 'up');
      run('link', 'set', device, 'up');
      run('addr', 'add', four, 'dev', device);
      run('addr', 'add', six, 'dev', device, 'nodad');
    }
    p('route', 'add', 'default', 'via', '45.33.1.2');
    p('-6', 'route', 'add', 'default', 'via', '2606:2900::2');
    p('route', 'add', 'local', '45.77.0.0/24', 'dev', 'lo');
    for (const address of ['93.184.216.34/32', '93.184.216.35/32', '9.9.9.9/32', ...FORBIDDEN.map((each) => `${each}/32`)]) {
      w('addr', 'add', address, 'dev', 'lo');
    }
    w('route', 'add', 'blackhole', '93.184.216.99/32');
    w('addr', 'add', '2606:2800::34/128', 'dev', 'lo', 'nodad');
  }

  async #startWorld(files: string | undefined): Promise<void> {
    const [key, certificate] = [path.join(this.dir, 'key.pem'), path.join(this.dir, 'cert.pem')];
    const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
    const out = ['-keyout', key, '-out', certificate, '-subj', '/CN=site.test', '-days', '2'];
    execFileSync('openssl', ['req', '-x509', ...curve, ...out], { stdio: 'ignore' });
    const script = path.join(import.meta.dirname, 'world.mjs');
    const world = this.#spawn(this.#outside, [script, key, certificate, ...(files === undefined ? [] : [files])]);
    const lines = createInterface({ input: world.stdout! });
    await once(lines, 'line');
    lines.on('line', (line) => this.reached.push(JSON.parse(line) as { address: string; port: number }));
  }

  #spawn(namespace: string, args: string[], env: Record<string, string> = {}): ChildProcess {
    const child = spawn('ip', ['netns', 'exec', namespace, process.execPath, ...args], {
      stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
      env: { ...process.env, ...env },
    });
    this.#children.push(child);
    return child;
  }
}

function ip(...args: string[]): void {
  execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] });
}
