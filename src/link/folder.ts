import { chmod, lstat, mkdir, open, readdir, rename, rm, unlink } from 'node:fs/promises';
import { connect } from 'node:net';
import path from 'node:path';
import { AppError } from '../lib/errors.js';

/** `sun_path` of Linux: 108 bytes with the closing NUL. A longer path fails late and unclearly. */
export const MAX_SOCKET_PATH_BYTES = 107;

const SAFE_NAME = /^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/;
/** An instance id is `ins_` and 26 characters; a process id is taken to be no longer. */
const USUAL_NAME = 'x'.repeat(30);

/** The folder that is mounted into one instance at /run/berth. */
export function folderOf(dir: string, instanceId: string): string {
  return path.join(dir, safeName(instanceId, 'instance id'));
}

/** The socket of one Berth process for one instance. */
export function socketPathOf(dir: string, instanceId: string, processId: string): string {
  return path.join(folderOf(dir, instanceId), `${safeName(processId, 'process id')}.sock`);
}

/** Throws at start-up when sockets under `dir` would have paths that the system cannot take. */
export function checkLinkDir(dir: string, processId: string = USUAL_NAME): void {
  checkSocketPath(socketPathOf(path.resolve(dir), USUAL_NAME, processId));
}

/** Throws when a socket cannot be made at `socketPath`, because of its length. */
export function checkSocketPath(socketPath: string): void {
  const bytes = Buffer.byteLength(socketPath);
  if (bytes <= MAX_SOCKET_PATH_BYTES) return;
  throw new AppError(
    'invalid_request',
    `the link folder is too deep: a socket path would have ${bytes} bytes, the system takes ${MAX_SOCKET_PATH_BYTES}; ` +
      `set LINK_DIR to a path that is ${bytes - MAX_SOCKET_PATH_BYTES} bytes shorter (${socketPath})`,
  );
}

/** Makes the parent of all folders, 0700: nobody else on the host looks in. */
export async function makeParent(dir: string): Promise<void> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  await chmod(dir, 0o700);
}

/** Makes the instance's folder, 0755: its uid reads it through the mount. There are hundreds at a start, so what is right already is left alone. */
export async function makeFolder(dir: string, instanceId: string): Promise<string> {
  const folder = folderOf(dir, instanceId);
  await mkdir(folder).catch(async (error: NodeJS.ErrnoException) => {
    if (error.code === 'EEXIST') return;
    if (error.code !== 'ENOENT') throw error;
    await makeParent(dir);
    await mkdir(folder, { recursive: true });
  });
  const found = await lstat(folder);
  if (!found.isDirectory()) throw new AppError('conflict', `${folder} is not a folder`);
  if ((found.mode & 0o777) !== 0o755) await chmod(folder, 0o755);
  return folder;
}

/** Writes the token that the instance proves itself with, all or nothing, readable by every uid that sees the mount. */
export async function writeTokenFile(folder: string, token: string): Promise<void> {
  const target = path.join(folder, 'token');
  const fresh = path.join(folder, 'token.new');
  await rm(fresh, { force: true });
  const file = await open(fresh, 'wx', 0o444);
  try {
    await file.writeFile(token);
    await file.chmod(0o444);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(fresh, target);
}

/** Removes the sockets of processes that are gone, so that instances do not dial them for ever. */
export async function removeStaleSockets(folder: string): Promise<string[]> {
  const removed: string[] = [];
  for (const name of await readdir(folder)) {
    const file = path.join(folder, name);
    if (!name.endsWith('.sock') || !(await isDeadSocket(file))) continue;
    await unlink(file).catch(ignoreMissing);
    removed.push(name);
  }
  return removed;
}

/** The instances that have a folder under `dir`, for sweeping what no row of the database names. */
export async function listFolders(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { withFileTypes: true }).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw error;
  });
  return entries.filter((entry) => entry.isDirectory() && SAFE_NAME.test(entry.name)).map((entry) => entry.name);
}

/** Deletes an instance's folder. A symlink in it, or in its place, is unlinked and not followed. */
export async function removeFolder(dir: string, instanceId: string): Promise<void> {
  await rm(folderOf(dir, instanceId), { recursive: true, force: true });
}

export function ignoreMissing(error: NodeJS.ErrnoException): void {
  if (error.code !== 'ENOENT') throw error;
}

function safeName(name: string, what: string): string {
  if (!SAFE_NAME.test(name)) throw new AppError('invalid_request', `not a ${what} that can be a file name`);
  return name;
}

async function isDeadSocket(file: string): Promise<boolean> {
  const stat = await lstat(file).catch(ignoreMissing);
  if (!stat?.isSocket()) return false;
  return new Promise((resolve) => {
    const socket = connect(file);
    socket.once('connect', () => {
      socket.destroy();
      resolve(false);
    });
    socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'ECONNREFUSED'));
  });
}
