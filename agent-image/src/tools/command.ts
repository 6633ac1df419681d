import { spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';
import { ToolError, type ToolResult } from './tool.js';

/** A command that prints more than this is ended: nobody reads it, and it is held in memory. */
const MOST_OUTPUT_BYTES = 1024 * 1024;
/** How long the pipes of an ended command are waited for; only a process that hid from us still holds them. */
const CLOSE_WITHIN_MS = 500;

type Ending = 'exit' | 'timeout' | 'output' | 'abort';

/** What is to be run, and where. */
export interface CommandJob {
  /** For bash. */
  command: string;
  dir: string;
  env: Record<string, string>;
  timeoutS: number;
  /** For its standard input; undefined: there is none. */
  input?: string;
}

/** One command, run once. It settles only when nothing that it started is left. */
export class Command {
  readonly #job: CommandJob;
  readonly #signal: AbortSignal;
  readonly #child: ChildProcess;
  /** Found in the environment of all that the command starts, also of what left its process group. */
  readonly #marker = `BERTH_CALL=${randomUUID()}`;
  #output = '';
  #outputBytes = 0;
  #ending: Ending = 'exit';

  constructor(job: CommandJob, signal: AbortSignal) {
    this.#job = job;
    this.#signal = signal;
    const [name, value] = this.#marker.split('=') as [string, string];
    this.#child = spawn('bash', ['-c', job.command], {
      cwd: job.dir,
      env: { ...job.env, [name]: value },
      stdio: [job.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
      detached: true, // A process group of its own, so that it can be ended as a whole.
    });
  }

  async run(): Promise<ToolResult> {
    // A command that does not read what it is told, or has ended, is no failure.
    this.#child.stdin?.on('error', () => undefined).end(this.#job.input);
    for (const stream of [this.#child.stdout, this.#child.stderr]) if (stream) this.#collect(stream);
    const timer = setTimeout(() => this.#kill('timeout'), this.#job.timeoutS * 1000);
    const abort = () => this.#kill('abort');
    if (this.#signal.aborted) abort();
    this.#signal.addEventListener('abort', abort, { once: true });
    try {
      const { code, signal } = await this.#ended();
      return this.#result(code, signal);
    } finally {
      clearTimeout(timer);
      this.#signal.removeEventListener('abort', abort);
    }
  }

  #collect(stream: Readable): void {
    const decoder = new StringDecoder('utf8');
    stream.on('data', (piece: Buffer) => {
      if (this.#outputBytes >= MOST_OUTPUT_BYTES) return;
      this.#outputBytes += piece.length;
      this.#output += decoder.write(piece);
      if (this.#outputBytes >= MOST_OUTPUT_BYTES) this.#kill('output');
    });
  }

  #ended(): Promise<{ code: number | null; signal: string | null }> {
    return new Promise((resolve, reject) => {
      this.#child.once('error', (error: NodeJS.ErrnoException) =>
        reject(new ToolError(`the shell cannot be started (${error.code})`)),
      );
      this.#child.once('exit', (code, signal) => {
        endAll(this.#child.pid, this.#marker);
        const settle = () => {
          clearTimeout(waiting);
          resolve({ code, signal });
        };
        const waiting = setTimeout(() => {
          this.#child.stdout?.destroy();
          this.#child.stderr?.destroy();
        }, CLOSE_WITHIN_MS);
        this.#child.once('close', settle);
      });
    });
  }

  #kill(ending: Ending): void {
    if (this.#ending !== 'exit') return;
    this.#ending = ending;
    endAll(this.#child.pid, this.#marker);
  }

  #result(code: number | null, signal: string | null): ToolResult {
    const notes: Record<Ending, string> = {
      exit: code === 0 ? '' : signal === null ? `[exit code ${code}]` : `[ended by ${signal}]`,
      timeout: `[ended after ${this.#job.timeoutS} s: it took too long]`,
      output: '[ended: it printed more than 1 MB]',
      abort: '[ended: the turn was stopped]',
    };
    const text = [this.#output.trimEnd(), notes[this.#ending]].filter(Boolean).join('\n');
    return { ok: this.#ending === 'exit' && code === 0, text: text || '(no output)' };
  }
}

/** Ends a process group, then whatever else carries the marker, until nothing does: what forks meanwhile is found the next time. */
function endAll(pid: number | undefined, marker: string): void {
  if (pid !== undefined) kill(-pid);
  for (let round = 0; round < 20; round++) {
    const found = processesWith(marker);
    if (found.length === 0) return;
    found.forEach(kill);
  }
}

function processesWith(marker: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => pid !== process.pid && carries(pid, marker));
}

function carries(pid: number, marker: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'latin1').includes(marker);
  } catch {
    return false; // It has ended, or is another user's.
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended by itself.
  }
}
