import { randomBytes } from 'node:crypto';
import { link, open, readFile, readlink, rename, stat, unlink, utimes } from 'node:fs/promises';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Log } from '../lib/log.js';
import { codeOf } from './errors.js';

/** A held lock on a folder. */
export interface FolderLock {
  /** Gives the folder free. Safe to call twice; never removes a lock that someone else took meanwhile. */
  release(): Promise<void>;
}

export interface LockOptions {
  /** How often the holder shows that it lives. */
  beatMs?: number;
  /** How long a holder that cannot be looked up (another container, another host) must show no life before it counts as dead. */
  patienceMs?: number;
  /** Called when the lock file is found to be another's. By default the process ends by an uncaught error: writing on would corrupt. */
  onLost?: (error: Error) => void;
}

/** Another living process holds the folder. */
export class FolderLockedError extends Error {
  override readonly name = 'FolderLockedError';
}

/** What the lock file says about its holder. `space` names the boot and the pid namespace in which `pid` means something. */
interface Holder {
  nonce: string;
  pid: number;
  startTime: string | null;
  space: string | null;
  host: string;
}

/**
 * Takes the lock file at `path`, or throws a `FolderLockedError`. PGlite does not notice a second process on its folder and then loses
 * rows silently, so a lock left by a killed process is taken over only when that process is known to be gone: by pid and start time
 * where its pid can be looked up from here, else by waiting for a sign of life.
 */
export async function lockFolder(path: string, log: Log, options: LockOptions = {}): Promise<FolderLock> {
  const { beatMs = 2_000, patienceMs = 12_000, onLost = crash } = options;
  const me = await describeSelf();
  for (let tries = 0; tries < 10; tries++) {
    if (await create(path, me)) return hold(path, me, beatMs, onLost);
    const found = await read(path);
    if (found === undefined) continue;
    if (await isAlive(path, found, me, patienceMs, log)) throw refusal(path, found.holder);
    await removeStale(path, found.text);
    log.warn({ lock: path, pid: found.holder?.pid }, 'took over the database lock of a process that is gone');
  }
  throw new FolderLockedError(`the lock ${path} keeps changing hands: several processes are starting on this folder`);
}

async function create(path: string, me: Holder): Promise<boolean> {
  try {
    const file = await open(path, 'wx', 0o600);
    try {
      await file.writeFile(JSON.stringify(me));
    } finally {
      await file.close();
    }
    return true;
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false;
    throw error;
  }
}

interface Found {
  text: string;
  /** Absent when the file is not (yet) readable as a lock. */
  holder: Holder | undefined;
}

async function read(path: string): Promise<Found | undefined> {
  try {
    const text = await readFile(path, 'utf8');
    return { text, holder: parse(text) };
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

function parse(text: string): Holder | undefined {
  try {
    const value = JSON.parse(text) as Partial<Holder>;
    return typeof value.pid === 'number' && typeof value.nonce === 'string' ? (value as Holder) : undefined;
  } catch {
    // A file cut short by a crash of its writer: the caller then looks for signs of life only.
    return undefined;
  }
}

async function isAlive(path: string, found: Found, me: Holder, patienceMs: number, log: Log): Promise<boolean> {
  const { holder } = found;
  if (holder && holder.space === me.space && holder.host === me.host) return isRunning(holder);
  log.info({ lock: path, patienceMs }, 'the database folder is locked from elsewhere; watching whether its holder still lives');
  return showsLife(path, found.text, patienceMs);
}

async function isRunning(holder: Holder): Promise<boolean> {
  if (holder.startTime !== null) return (await startTimeOf(holder.pid)) === holder.startTime;
  try {
    process.kill(holder.pid, 0);
    return true;
  } catch (error) {
    return codeOf(error) === 'EPERM';
  }
}

/** Whether the lock file is touched, replaced or removed within `patienceMs`. Looks at its changes only: clocks of hosts differ. */
async function showsLife(path: string, text: string, patienceMs: number): Promise<boolean> {
  const before = await stat(path).catch(() => undefined);
  for (let waited = 0; before && waited < patienceMs; waited += 200) {
    await sleep(200);
    const [now, found] = [await stat(path).catch(() => undefined), await read(path)];
    if (!now || !found) return false;
    if (now.mtimeMs !== before.mtimeMs || found.text !== text) return true;
  }
  return false;
}

/**
 * Removes the lock only if it still is the one judged stale. Two starters may judge the same file: by renaming, one of them gets it;
 * who finds a fresh lock in its hands puts it back.
 */
async function removeStale(path: string, text: string): Promise<void> {
  const aside = `${path}.${randomBytes(6).toString('hex')}`;
  try {
    await rename(path, aside);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return;
    throw error;
  }
  if ((await readFile(aside, 'utf8')) !== text) await putBack(aside, path);
  await unlink(aside);
}

async function putBack(aside: string, path: string): Promise<void> {
  try {
    await link(aside, path);
  } catch (error) {
    // A third starter was quicker: the holder whose file this was finds out at its next beat, and ends.
    if (codeOf(error) !== 'EEXIST') throw error;
  }
}

function hold(path: string, me: Holder, beatMs: number, onLost: (error: Error) => void): FolderLock {
  let released = false;
  const beat = async (): Promise<void> => {
    if (released) return;
    const holder = (await read(path).catch(() => undefined))?.holder;
    if (released) return;
    if (holder?.nonce !== me.nonce) {
      released = true;
      clearInterval(timer);
      onLost(new FolderLockedError(`the database lock ${path} was ${holder ? `taken by process ${holder.pid}` : 'removed'} while held`));
      return;
    }
    const now = new Date();
    await utimes(path, now, now).catch(() => undefined);
  };
  const timer = setInterval(() => void beat(), beatMs);
  timer.unref();
  return {
    async release() {
      if (released) return;
      released = true;
      clearInterval(timer);
      if ((await read(path))?.holder?.nonce === me.nonce) await unlink(path);
    },
  };
}

function crash(error: Error): void {
  setImmediate(() => {
    throw error;
  });
}

function refusal(path: string, holder: Holder | undefined): FolderLockedError {
  const who = holder ? `process ${holder.pid} on ${holder.host}` : 'another process';
  return new FolderLockedError(
    `the database folder is in use by ${who} (${path}). The embedded database serves one process: ` +
      'stop that one, or set DATABASE_URL to a Postgres server to run several.',
  );
}

async function describeSelf(): Promise<Holder> {
  const [boot, pids] = await Promise.all([
    readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => undefined),
    readlink('/proc/self/ns/pid').catch(() => undefined),
  ]);
  return {
    nonce: randomBytes(12).toString('hex'),
    pid: process.pid,
    startTime: (await startTimeOf(process.pid)) ?? null,
    space: boot && pids ? `${boot.trim()} ${pids}` : null,
    host: hostname(),
  };
}

/** When a process started (clock ticks since boot), so that a pid used again is not taken for the old one. Zombies count as gone. */
async function startTimeOf(pid: number): Promise<string | undefined> {
  const line = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined);
  // The second field is the program's name in parentheses and may hold spaces: count from the last parenthesis.
  const fields = line?.slice(line.lastIndexOf(')') + 2).split(' ');
  return fields && fields[0] !== 'Z' && fields[0] !== 'X' ? fields[19] : undefined;
}
