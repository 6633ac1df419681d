import { randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, readlink, rename, rm, rmdir, stat, unlink, utimes, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, dirname, join } from 'node:path';
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
  /** Called when the lock is found to be gone. By default the process ends by an uncaught error: writing on would corrupt. */
  onLost?: (error: Error) => void;
}

/** Another living process holds the folder. */
export class FolderLockedError extends Error {
  override readonly name = 'FolderLockedError';
}

/** What the lock says about its holder. `space` names the boot and the pid namespace in which `pid` means something. */
interface Holder {
  nonce: string;
  pid: number;
  startTime: string | null;
  space: string | null;
  host: string;
}

/**
 * Takes the lock at `path`, or throws a `FolderLockedError`. PGlite does not notice a second process on its folder and then
 * loses rows silently, so a lock left by a killed process is taken over only when that process is known to be gone: by pid and
 * start time where its pid can be looked up from here, else by waiting for a sign of life.
 *
 * The lock is a folder with one file, named after its holder. It is made elsewhere and renamed into place, which the system
 * allows only where there is no folder or an empty one; and a stale lock is emptied by the name of its holder. So however many
 * find the same lock stale, none can remove the lock of another who was quicker.
 */
export async function lockFolder(path: string, log: Log, options: LockOptions = {}): Promise<FolderLock> {
  const { beatMs = 2_000, patienceMs = 12_000, onLost = crash } = options;
  const me = await describeSelf();
  for (let tries = 0; tries < 100; tries++) {
    if (await moveIn(path, me)) {
      await sweep(path);
      return hold(path, me, beatMs, onLost);
    }
    const found = await read(path);
    if (!found) continue;
    if (await isAlive(found, me, patienceMs, log)) throw refusal(path, found.holder);
    log.warn({ lock: path, pid: found.holder?.pid }, 'the database lock was left by a process that is gone');
    await ignoring('ENOENT', unlink(found.file));
  }
  throw new FolderLockedError(`the lock ${path} keeps changing hands: several processes are starting on this folder`);
}

async function moveIn(path: string, me: Holder): Promise<boolean> {
  const own = `${path}.${me.nonce}`;
  try {
    await mkdir(own, { mode: 0o700 });
    await writeFile(join(own, me.nonce), JSON.stringify(me), { mode: 0o600 });
    await rename(own, path);
    return true;
  } catch (error) {
    await rm(own, { recursive: true, force: true });
    // Somebody is in, or has just come in and swept our folder away.
    if (['ENOTEMPTY', 'EEXIST', 'ENOENT'].includes(codeOf(error) ?? '')) return false;
    throw error;
  }
}

/** Removes what starters that were killed have left beside the lock. One that still tries makes its folder anew. */
async function sweep(path: string): Promise<void> {
  const left = (await readdir(dirname(path))).filter((name) => name.startsWith(`${basename(path)}.`));
  await Promise.all(left.map((name) => rm(join(dirname(path), name), { recursive: true, force: true })));
}

interface Found {
  file: string;
  /** Absent when the file is not readable as a lock, which only a power cut can bring about. */
  holder: Holder | undefined;
}

async function read(path: string): Promise<Found | undefined> {
  const [name] = (await ignoring('ENOENT', readdir(path))) ?? [];
  if (name === undefined) return undefined;
  const file = join(path, name);
  const text = await ignoring('ENOENT', readFile(file, 'utf8'));
  return text === undefined ? undefined : { file, holder: parse(text) };
}

function parse(text: string): Holder | undefined {
  try {
    const value = JSON.parse(text) as Partial<Holder> | null;
    return typeof value?.pid === 'number' && typeof value.nonce === 'string' ? (value as Holder) : undefined;
  } catch {
    // Signs of life are all that is left to judge by.
    return undefined;
  }
}

async function isAlive({ file, holder }: Found, me: Holder, patienceMs: number, log: Log): Promise<boolean> {
  if (holder && holder.space === me.space && holder.host === me.host) return isRunning(holder);
  log.info({ lock: file, patienceMs }, 'the database folder is locked from elsewhere; watching whether its holder still lives');
  return showsLife(file, patienceMs);
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

/** Whether the lock is touched within `patienceMs`. Looks at changes only: clocks of hosts differ. */
async function showsLife(file: string, patienceMs: number): Promise<boolean> {
  const before = await ignoring('ENOENT', stat(file));
  for (let waited = 0; before && waited < patienceMs; waited += 200) {
    await sleep(200);
    const now = await ignoring('ENOENT', stat(file));
    if (now?.mtimeMs !== before.mtimeMs) return now !== undefined;
  }
  return false;
}

function hold(path: string, me: Holder, beatMs: number, onLost: (error: Error) => void): FolderLock {
  const file = join(path, me.nonce);
  let released = false;
  const beat = async (): Promise<void> => {
    try {
      const now = new Date();
      await utimes(file, now, now);
    } catch (error) {
      if (released) return;
      released = true;
      clearInterval(timer);
      onLost(new FolderLockedError(`the database lock ${path} is no longer ours`, { cause: error }));
    }
  };
  const timer = setInterval(() => void beat(), beatMs);
  timer.unref();
  return {
    async release() {
      if (released) return;
      released = true;
      clearInterval(timer);
      await ignoring('ENOENT', unlink(file));
      // Not empty: the next holder has moved in already.
      await ignoring('ENOENT', ignoring('ENOTEMPTY', rmdir(path)));
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

/**
 * When a process started (clock ticks since boot), so that a pid used again is not taken for the old one. Zombies count as
 * gone.
 */
async function startTimeOf(pid: number): Promise<string | undefined> {
  const line = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined);
  // The second field is the program's name in parentheses and may hold spaces: count from the last parenthesis.
  const fields = line?.slice(line.lastIndexOf(')') + 2).split(' ');
  return fields && fields[0] !== 'Z' && fields[0] !== 'X' ? fields[19] : undefined;
}

async function ignoring<T>(code: string, work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (codeOf(error) === code) return undefined;
    throw error;
  }
}
