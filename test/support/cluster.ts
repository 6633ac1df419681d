import { execFile } from 'node:child_process';
import { access, chmod, open, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const SCRIPT = fileURLToPath(new URL('../../scripts/postgres', import.meta.url));
const START_LIMIT_MS = 120_000;

/**
 * The URL of the run's own Postgres (TEST_DATABASE_URL names another one, on which databases may be made and dropped). The first
 * worker that asks starts it, the others wait. `prepare` runs once, before anyone gets the URL.
 */
export async function clusterUrl(runDir: string, prepare: (url: string) => Promise<void>): Promise<string> {
  const answer = join(runDir, 'postgres.json');
  if (await claim(join(runDir, 'postgres.claim'))) {
    const said = await attempt(async () => {
      const url = process.env['TEST_DATABASE_URL'] ?? (await startCluster(runDir));
      await prepare(url);
      return url;
    });
    await writeFile(`${answer}.new`, JSON.stringify(said));
    await rename(`${answer}.new`, answer);
  }
  const { url, error } = await readWhenThere(answer);
  if (url === undefined) throw new Error(`no Postgres to test on: ${error}`);
  return url;
}

/** Stops the server that `clusterUrl` started in this folder, if any. */
export async function stopCluster(runDir: string): Promise<void> {
  const dir = join(runDir, 'postgres');
  const started = await access(dir).then(
    () => true,
    () => false,
  );
  if (started) await run(SCRIPT, ['down', dir]);
}

async function startCluster(runDir: string): Promise<string> {
  // Under root the server runs as the user postgres, who must be able to pass through.
  await chmod(runDir, 0o711);
  const { stdout } = await run(SCRIPT, ['up', join(runDir, 'postgres')]);
  return stdout.trim();
}

interface Answer {
  url?: string;
  error?: string;
}

async function attempt(work: () => Promise<string>): Promise<Answer> {
  try {
    return { url: await work() };
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

async function claim(path: string): Promise<boolean> {
  try {
    await (await open(path, 'wx')).close();
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

async function readWhenThere(path: string): Promise<Answer> {
  for (const until = Date.now() + START_LIMIT_MS; Date.now() < until; await sleep(25)) {
    const text = await readFile(path, 'utf8').catch(() => undefined);
    if (text !== undefined) return JSON.parse(text) as Answer;
  }
  return { error: `it was not ready within ${START_LIMIT_MS} ms` };
}
