import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, chown, mkdir, open, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);
const START_LIMIT_MS = 60_000;

/**
 * The URL of the run's own Postgres (TEST_DATABASE_URL names another one, on which databases may be made and dropped). The first worker
 * that asks starts it, the others wait. `prepare` runs once, before anyone gets the URL.
 */
export async function clusterUrl(runDir: string, prepare: (url: string) => Promise<void>): Promise<string> {
  const answer = join(runDir, 'postgres.json');
  if (await claim(join(runDir, 'postgres.claim'))) {
    const said = await attempt(async () => {
      const url = process.env['TEST_DATABASE_URL'] ?? (await startCluster(join(runDir, 'postgres')));
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
  const data = join(runDir, 'postgres', 'data');
  const pidfile = await readFile(join(data, 'postmaster.pid'), 'utf8').catch(() => undefined);
  if (pidfile === undefined) return;
  // A server that was killed leaves its pidfile; `stop` would then fail.
  const runs = await asPostgres('pg_ctl', ['status', '-D', data]).then(() => true, () => false);
  if (runs) await asPostgres('pg_ctl', ['stop', '-D', data, '-m', 'immediate', '-w']);
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

// Nothing here must survive a power cut, and no test may wait for a disk.
const SETTINGS = ['fsync=off', 'synchronous_commit=off', 'full_page_writes=off', 'listen_addresses=', 'max_connections=200', 'shared_buffers=64MB'];

async function startCluster(dir: string): Promise<string> {
  const data = join(dir, 'data');
  await mkdir(dir, { mode: 0o700 });
  const user = await postgresUser();
  if (user) {
    await chmod(join(dir, '..'), 0o711);
    await chown(dir, user.uid, user.gid);
  }
  await asPostgres('initdb', ['-D', data, '-U', 'postgres', '--auth=trust', '--encoding=UTF8', '--locale=C', '--no-sync']);
  const settings = [...SETTINGS, `unix_socket_directories=${dir}`].flatMap((setting) => ['-c', `'${setting}'`]).join(' ');
  await asPostgres('pg_ctl', ['start', '-D', data, '-w', '-l', join(dir, 'log'), '-o', settings]);
  return `postgres://postgres@localhost/postgres?host=${encodeURIComponent(dir)}`;
}

/** Postgres refuses to run as root: then it runs as the user `postgres` that its package made. */
async function postgresUser(): Promise<{ uid: number; gid: number } | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  const fields = (await readFile('/etc/passwd', 'utf8')).split('\n').find((line) => line.startsWith('postgres:'))?.split(':');
  if (!fields) throw new Error('tests run as root need an OS user named postgres (apt-get install postgresql makes it)');
  return { uid: Number(fields[2]), gid: Number(fields[3]) };
}

async function asPostgres(program: string, args: string[]): Promise<void> {
  const user = await postgresUser();
  // The server inherits these; a pipe would keep the caller waiting for as long as the server runs.
  const child = spawn(await findProgram(program), args, { ...user, cwd: '/', stdio: 'ignore' });
  const [code] = (await once(child, 'close')) as [number | null];
  if (code !== 0) throw new Error(`${program} exited with ${code}`);
}

const PACKAGED = '/usr/lib/postgresql';

async function findProgram(program: string): Promise<string> {
  const versions = (await readdir(PACKAGED).catch(() => [])).sort((a, b) => Number(b) - Number(a));
  const dirs = [...versions.map((version) => join(PACKAGED, version, 'bin')), ...(process.env['PATH'] ?? '').split(':')];
  for (const dir of dirs) {
    const path = join(dir, program);
    if (await run(path, ['--version']).then(() => true, () => false)) return path;
  }
  throw new Error(
    `${program} is not installed. Install PostgreSQL 15 or newer (Debian: apt-get install postgresql), or set TEST_DATABASE_URL.`,
  );
}
