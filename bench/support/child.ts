import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';

/** A process of a benchmark, its output in a file: a pipe would have to be read by whoever measures. */
export class Child {
  readonly #process: ChildProcess;
  readonly #logFile: string;

  private constructor(child: ChildProcess, logFile: string) {
    this.#process = child;
    this.#logFile = logFile;
  }

  static async start(args: string[], env: Record<string, string>, logFile: string): Promise<Child> {
    const log = await open(logFile, 'w');
    const child = spawn(process.execPath, args, {
      env: { PATH: process.env['PATH'] ?? '', ...env },
      stdio: ['ignore', log.fd, log.fd],
    });
    await log.close();
    return new Child(child, logFile);
  }

  get pid(): number {
    return this.#process.pid!;
  }

  get hasEnded(): boolean {
    return this.#process.exitCode !== null || this.#process.signalCode !== null;
  }

  output(): Promise<string> {
    return readFile(this.#logFile, 'utf8');
  }

  /** The first line that it prints as JSON and that has this field. */
  async said<T>(field: string): Promise<T> {
    return this.until(async () => {
      const lines = (await this.output()).split('\n');
      return lines
        .filter((line) => line.startsWith('{'))
        .map(parsed)
        .find((value) => value !== undefined && field in value) as T | undefined;
    });
  }

  /** What `look` answers as soon as it answers something. */
  async until<T>(look: () => Promise<T | undefined>, withinMs = 60_000): Promise<T> {
    for (const end = Date.now() + withinMs; Date.now() < end; await sleep(20)) {
      const found = await look();
      if (found !== undefined) return found;
      if (this.hasEnded) break;
    }
    throw new Error(`a process did not do what it was started for: ${(await this.output()).slice(-2_000)}`);
  }

  signal(signal: NodeJS.Signals): void {
    this.#process.kill(signal);
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    if (this.hasEnded) return;
    const ended = once(this.#process, 'exit');
    this.#process.kill(signal);
    await ended;
  }

  residentMib(): number {
    return residentMib(this.pid);
  }
}

/** Resident memory of a process, as the kernel counts it. */
export function residentMib(pid: number): number {
  return Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024;
}

/** Processor time that these processes have used since they began. The kernel counts it in hundredths of a second. */
export function cpuMsOf(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => {
    const fields = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]!.split(' ');
    return sum + (Number(fields[11]) + Number(fields[12])) * 10;
  }, 0);
}

function parsed(line: string): object | undefined {
  try {
    return JSON.parse(line) as object;
  } catch {
    return undefined;
  }
}
