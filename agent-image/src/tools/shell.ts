import { spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { readFileSync, readdirSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';
import { ToolError, optionalInteger, stringArgument, type Tool, type ToolContext, type ToolResult } from './tool.js';

export interface ShellOptions {
  /** Port of the forward proxy on 127.0.0.1, asked at each call: it listens a moment after the start. */
  proxyPort: () => number | undefined;
}

const DEFAULT_TIMEOUT_S = 120;
const MOST_TIMEOUT_S = 600;
/** A command that prints more than this is ended: nobody reads it, and it is held in memory. */
const MOST_OUTPUT_BYTES = 1024 * 1024;
const MOST_COMMAND_CHARS = 100_000;
/** How long the pipes of an ended command are waited for; only a process that hid from us still holds them. */
const CLOSE_WITHIN_MS = 500;

/** Runs commands with bash in the workspace. Nothing that a command started outlives its call. */
export function shellTool(options: ShellOptions): Tool {
  return {
    name: 'shell',
    description:
      `Run a command with bash in the workspace. Ends after timeout_s seconds (${DEFAULT_TIMEOUT_S} unless given, at most ${MOST_TIMEOUT_S}); ` +
      'what it left running is ended too. There is no terminal and no standard input.',
    parameters: {
      type: 'object',
      properties: { command: { type: 'string' }, timeout_s: { type: 'integer', minimum: 1, maximum: MOST_TIMEOUT_S } },
      required: ['command'],
    },
    async run(args, context) {
      const command = stringArgument(args, 'command');
      if (command.length > MOST_COMMAND_CHARS || command.includes('\0'))
        throw new ToolError('command: is too long or holds a NUL character');
      const timeoutS = optionalInteger(args, 'timeout_s', 1, MOST_TIMEOUT_S, DEFAULT_TIMEOUT_S);
      await mkdir(context.workspace.dir, { recursive: true });
      return new Command(command, timeoutS, context, options.proxyPort()).run();
    },
  };
}

/** The environment of a command: what programs need and nothing of the gateway's own. */
export function shellEnvironment(
  context: Pick<ToolContext, 'workspace' | 'agentId'>,
  proxyPort: number | undefined,
): Record<string, string> {
  const env: Record<string, string> = {
    PATH: process.env['PATH'] ?? '/usr/local/bin:/usr/bin:/bin',
    HOME: context.workspace.home,
    PWD: context.workspace.dir,
    LANG: 'C.UTF-8',
    TERM: 'dumb',
    USER: 'agent',
    BERTH_AGENT: context.agentId,
  };
  if (proxyPort === undefined) return env;
  const proxy = `http://127.0.0.1:${proxyPort}`;
  const direct = 'localhost,127.0.0.1,::1';
  for (const name of ['HTTP_PROXY', 'HTTPS_PROXY']) env[name] = env[name.toLowerCase()] = proxy;
  return { ...env, NO_PROXY: direct, no_proxy: direct, NODE_USE_ENV_PROXY: '1' };
}

type Ending = 'exit' | 'timeout' | 'output' | 'abort';

class Command {
  readonly #context: ToolContext;
  readonly #timeoutS: number;
  readonly #child: ChildProcess;
  /** Found in the environment of all that the command starts, also of what left its process group. */
  readonly #marker = `BERTH_CALL=${randomUUID()}`;
  #output = '';
  #outputBytes = 0;
  #ending: Ending = 'exit';

  constructor(command: string, timeoutS: number, context: ToolContext, proxyPort: number | undefined) {
    this.#context = context;
    this.#timeoutS = timeoutS;
    const [name, value] = this.#marker.split('=') as [string, string];
    this.#child = spawn('bash', ['-c', command], {
      cwd: context.workspace.dir,
      env: { ...shellEnvironment(context, proxyPort), [name]: value },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true, // A process group of its own, so that it can be ended as a whole.
    });
  }

  async run(): Promise<ToolResult> {
    for (const stream of [this.#child.stdout, this.#child.stderr]) if (stream) this.#collect(stream);
    const timer = setTimeout(() => this.#kill('timeout'), this.#timeoutS * 1000);
    const abort = () => this.#kill('abort');
    if (this.#context.signal.aborted) abort();
    this.#context.signal.addEventListener('abort', abort, { once: true });
    try {
      const { code, signal } = await this.#ended();
      return this.#result(code, signal);
    } finally {
      clearTimeout(timer);
      this.#context.signal.removeEventListener('abort', abort);
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
      timeout: `[ended after ${this.#timeoutS} s: it took too long]`,
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
