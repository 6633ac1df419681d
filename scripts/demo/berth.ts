import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createWriteStream, mkdirSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Config } from '../../src/config.js';
import { checkLinkDir } from '../../src/link/folder.js';

const MAIN = fileURLToPath(new URL('../../dist/berth.mjs', import.meta.url));
const START_LIMIT_MS = 90_000;
const LAST_LINES = 12;

/** Berth as a process of its own, started from the build and stopped with the demonstration. */
export class Berth {
  readonly origin: string;
  readonly logFile: string;
  readonly #child: ChildProcess;
  readonly #lastLines: string[] = [];
  readonly #allHeard: Promise<unknown>;

  constructor(config: Config, port: number, linkDir: string) {
    this.origin = `http://${reachable(config.host)}:${port}`;
    this.logFile = join(config.dataDir, 'berth.log');
    mkdirSync(config.dataDir, { recursive: true, mode: 0o700 });
    // No pool: a demonstration that is cleaned up is to leave no container behind.
    const { POOL_SIZE = '0' } = process.env;
    this.#child = spawn(process.execPath, [MAIN], {
      env: { ...process.env, POOL_SIZE, PORT: String(port), DATA_DIR: config.dataDir, LINK_DIR: linkDir },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#allHeard = once(this.#child, 'close');
    this.#keepLog();
  }

  /** Why it ended, once it has. */
  get ended(): string | undefined {
    const { exitCode, signalCode } = this.#child;
    return exitCode === null && signalCode === null ? undefined : `Berth ended with ${signalCode ?? `exit code ${exitCode}`}`;
  }

  /** What it said last that was no matter of course, in plain words, for a demonstration that failed. */
  get lastWords(): string {
    return this.#lastLines.map((line) => `  ${line.length > 400 ? `${line.slice(0, 400)}…` : line}`).join('\n');
  }

  async waitUntilHealthy(): Promise<void> {
    for (const untilMs = Date.now() + START_LIMIT_MS; Date.now() < untilMs; await sleep(50)) {
      if (this.ended) throw new Error(await this.#whyNotStarted());
      const answer = await fetch(`${this.origin}/health`).catch(() => undefined); // nobody listens yet
      if (answer?.ok) return;
    }
    throw new Error(`Berth did not answer within ${START_LIMIT_MS / 1000} s`);
  }

  /** Resolves when it has ended. */
  async waitForEnd(): Promise<void> {
    if (!this.ended) await once(this.#child, 'exit');
  }

  async stop(): Promise<void> {
    if (!this.ended) this.#child.kill('SIGTERM');
    await this.waitForEnd();
  }

  /** Its own reason where it gave one: the process has ended, and its last lines may still be on their way. */
  async #whyNotStarted(): Promise<string> {
    await this.#allHeard;
    return `Berth did not start: ${this.#lastLines.at(-1) ?? this.ended}`;
  }

  /** Its log goes to a file. The admin key, which Berth shows on its first start, does not: it has a file of its own. */
  #keepLog(): void {
    const file = createWriteStream(this.logFile, { flags: 'a', mode: 0o600 });
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      if (!stream) continue;
      createInterface({ input: stream }).on('line', (line) => {
        if (line.startsWith('Admin key')) return;
        file.write(`${line}\n`);
        const words = inWords(line);
        if (words !== undefined) this.#lastLines.push(words);
        if (this.#lastLines.length > LAST_LINES) this.#lastLines.shift();
      });
    }
  }
}

const WARNING = 40;

/** What a line of Berth's log says to a person: the message of a warning or worse; text that is no log line as it is. */
function inWords(line: string): string | undefined {
  try {
    const { level, msg } = JSON.parse(line) as { level?: number; msg?: string };
    return level !== undefined && level >= WARNING ? msg : undefined;
  } catch {
    return line;
  }
}

/** The port that Berth gets: the one that was asked for, else the usual one, else any that is free. */
export async function choosePort(config: Config, asked: boolean): Promise<number> {
  if (config.port !== 0 && (await isFree(config.host, config.port))) return config.port;
  if (asked && config.port !== 0) throw new PortTaken(config.host, config.port, await isBerth(config));
  return freePort(config.host);
}

/** The port that was asked for is another's, perhaps another Berth's, which must not be taken for ours. */
class PortTaken extends Error {
  constructor(host: string, port: number, byBerth: boolean) {
    const owner = byBerth ? 'Another Berth' : 'Something else';
    super(`${owner} listens on port ${port} of ${host} already: stop it, or set PORT to another port (unset: any free one).`);
    this.name = 'PortTaken';
  }
}

async function isBerth(config: Config): Promise<boolean> {
  try {
    const answer = await fetch(`http://${reachable(config.host)}:${config.port}/openapi.json`, {
      signal: AbortSignal.timeout(2_000),
    });
    const { info } = (await answer.json()) as { info?: { title?: string } };
    return info?.title === 'Berth';
  } catch {
    return false; // whatever it is, it does not speak as Berth does
  }
}

/** The link folder: beside the data, unless that is too deep for the path of a socket. The same each time for the same data. */
export function chooseLinkDir(config: Config): string {
  try {
    checkLinkDir(config.linkDir, 'p'.repeat(9));
    return config.linkDir;
  } catch {
    const name = createHash('sha256').update(config.dataDir).digest('hex').slice(0, 8);
    return join(tmpdir(), `berth-${userInfo().uid}-${name}`);
  }
}

function reachable(host: string): string {
  if (host === '0.0.0.0' || host === '::') return '127.0.0.1';
  return host.includes(':') ? `[${host}]` : host;
}

async function isFree(host: string, port: number): Promise<boolean> {
  return listen(host, port).then(
    () => true,
    () => false,
  );
}

async function freePort(host: string): Promise<number> {
  return listen(host, 0);
}

async function listen(host: string, port: number): Promise<number> {
  const server = createServer();
  server.listen(port, host);
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('a server without a port');
  return address.port;
}
