import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';

/** A process of its own that runs a TypeScript file; everything it says on stdout, line by line. */
export interface Child {
  lines: string[];
  say(line: string): void;
  /** Resolves with the first line that matches, past or future. */
  hear(pattern: RegExp): Promise<string>;
  /** Kills it with SIGKILL unless it has ended, and waits for its end. */
  kill(): Promise<void>;
}

export function startChild(file: URL, args: string[]): Child {
  const child = spawn(process.execPath, ['--import', 'tsx', fileURLToPath(file), ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const exited = once(child, 'exit');
  const lines: string[] = [];
  createInterface({ input: child.stdout }).on('line', (line) => lines.push(line));
  return {
    lines,
    say: (line) => void child.stdin.write(`${line}\n`),
    hear: (pattern) =>
      expect
        .poll(() => lines.find((line) => pattern.test(line)), {
          timeout: 60_000,
          interval: 10,
          message: `a line like ${pattern}`,
        })
        .toBeDefined()
        .then(() => lines.find((line) => pattern.test(line))!),
    async kill() {
      child.kill('SIGKILL');
      await exited;
    },
  };
}
