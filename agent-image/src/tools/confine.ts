import { constants } from 'node:fs';
import { lstat, mkdir, open, readlink, realpath, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { checkRelativePath } from '../paths.js';
import { ToolError } from './tool.js';

/** Opens a regular file within a workspace for reading. Throws `ToolError` on any way out of it, links included. */
export async function openToRead(root: string, path: string): Promise<FileHandle> {
  return inWords(path, async () => openInside(await realpath(root), await resolveInside(root, path), constants.O_RDONLY));
}

/** Opens a file within a workspace for writing, made with its folders where it does not exist. What it holds is left as it is. */
export async function openToWrite(root: string, path: string): Promise<FileHandle> {
  return inWords(path, async () => {
    check(path);
    const real = await realpath(root);
    await makeFolders(root, real, dirname(path));
    return openInside(real, await resolveInside(root, path), constants.O_WRONLY | constants.O_CREAT);
  });
}

/** The real path of a folder within a workspace. */
export async function resolveFolder(root: string, path: string): Promise<string> {
  return inWords(path, async () => {
    check(path);
    return inside(await realpath(root), await realpath(join(root, path)));
  });
}

function check(path: string): void {
  const wrong = checkRelativePath(path);
  if (wrong) throw new ToolError(`path: ${wrong}`);
}

/** Where the file really is. Its folder must exist; it itself need not. */
async function resolveInside(root: string, path: string): Promise<string> {
  check(path);
  const real = await realpath(root);
  const target = join(inside(real, await realpath(join(root, dirname(path)))), basename(path));
  const stat = await lstat(target).catch(() => undefined);
  return stat?.isSymbolicLink() ? inside(real, await realpath(target)) : target;
}

/** Opens without following a last link and without waiting on a pipe, and looks afterwards at what it has really opened. */
async function openInside(real: string, target: string, flags: number): Promise<FileHandle> {
  const file = await open(target, flags | constants.O_NOFOLLOW | constants.O_NONBLOCK, 0o644);
  try {
    // A folder on the way may have become a link between the check and the opening.
    inside(real, await readlink(`/proc/self/fd/${file.fd}`));
    const stat = await file.stat();
    if (stat.isDirectory()) throw new ToolError('path: is a folder');
    if (!stat.isFile()) throw new ToolError('path: is not a regular file');
    return file;
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** Makes the folders of a path one by one, so that none is made beyond a link that leads out. */
async function makeFolders(root: string, real: string, path: string): Promise<void> {
  let at = root;
  for (const segment of path.split('/')) {
    at = join(at, segment);
    await mkdir(at).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
    });
    inside(real, await realpath(at));
  }
}

function inside(real: string, target: string): string {
  if (target !== real && !target.startsWith(`${real}/`)) throw new ToolError('path: leads out of the workspace');
  return target;
}

const WORDS: Record<string, string> = {
  ENOENT: 'there is no such file or folder',
  EISDIR: 'is a folder',
  ENOTDIR: 'a part of it is not a folder',
  EACCES: 'permission denied',
  ELOOP: 'leads through too many links',
  ENXIO: 'is not a regular file',
  ENOSPC: 'the disk is full',
  EDQUOT: 'the disk is full',
  ENAMETOOLONG: 'is too long',
};

async function inWords<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const words = WORDS[(error as NodeJS.ErrnoException).code ?? ''];
    throw words === undefined ? error : new ToolError(`${path.slice(0, 200)}: ${words}`);
  }
}
