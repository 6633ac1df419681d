import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));

/** How a program ended and what it said. */
export interface Ended {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs a program to its end; env is added to this process's own, and undefined takes a variable away. */
export function run(
  program: string,
  args: string[],
  options: { env?: Record<string, string | undefined>; cwd?: string } = {},
): Promise<Ended> {
  const child = spawn(program, args, {
    cwd: options.cwd ?? REPOSITORY,
    env: { ...process.env, ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const ended: Ended = { code: -1, stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => (ended.stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (ended.stderr += text));
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ ...ended, code: code ?? -1, stdout: ended.stdout.trimEnd() }));
  });
}

/** Runs one of the repository's scripts to its end. */
export function script(name: string, args: string[], options: Parameters<typeof run>[2] = {}): Promise<Ended> {
  return run('bash', [`${options.cwd ?? REPOSITORY}/scripts/${name}`, ...args], options);
}

/** Runs the docker command on the machine's engine and returns what it printed; fails when it fails. */
export async function docker(...args: string[]): Promise<string> {
  const ended = await run(existsSync('/usr/bin/docker') ? '/usr/bin/docker' : 'docker', args);
  if (ended.code !== 0) throw new Error(`docker ${args[0]} failed (${ended.code}): ${ended.stderr}`);
  return ended.stdout;
}
