import { mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestProject } from 'vitest/node';
import { stopCluster } from './cluster.js';

declare module 'vitest' {
  interface ProvidedContext {
    /** A folder of this run, for what its workers share. */
    runDir: string;
  }
}

const PREFIX = 'berth-test-';

/** Gives the run a folder; the first test that needs Postgres starts a private server there, which ends with the run. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  await removeOldRuns();
  const runDir = await mkdtemp(join(tmpdir(), `${PREFIX}${process.pid}-`));
  project.provide('runDir', runDir);
  return () => removeRun(runDir);
}

async function removeRun(runDir: string): Promise<void> {
  await stopCluster(runDir);
  await rm(runDir, { recursive: true, force: true });
}

/** A run that was killed leaves its server behind: its folder names the process that is gone. */
async function removeOldRuns(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    const pid = new RegExp(`^${PREFIX}(\\d+)-`).exec(name)?.[1];
    if (!pid || isRunning(Number(pid))) continue;
    const folder = join(tmpdir(), name);
    const owner = await stat(folder).catch(() => undefined); // gone: another run was quicker to remove it
    if (owner?.uid === process.getuid?.()) await removeRun(folder);
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
