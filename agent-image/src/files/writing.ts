import type { BigIntStats } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import type { Request } from '../body.js';
import { checkGuard, etagOf, type Guard } from './conditions.js';
import { FileError, systemCode } from './file-error.js';
import type { Folder } from './folder.js';
import { walk, walkIfThere } from './place.js';
import { FileSink, bytesOf } from './receiving.js';
import { Allowance, allocatedBytes } from './usage.js';
import type { Volume } from './volume.js';

/** A file as a write left it. */
export interface Written {
  path: string;
  size: number;
  etag: string;
  modified: string;
}

export interface WriteOptions {
  agentId: string;
  segments: string[];
  guard: Guard;
  /** What the whole volume may hold. */
  limitBytes: number | undefined;
}

/**
 * Writes a body to a file, whole or not at all: into the staging folder first, and from there by a rename, once all of it is on the
 * disk. What the guard asks for is looked at before the first byte, and again in the same breath as the rename.
 */
export async function writeFile(
  volume: Volume,
  request: Request,
  options: WriteOptions,
): Promise<{ created: boolean; written: Written }> {
  const there = lookUp(volume, options);
  checkTarget(options.guard, there);
  const allowance = new Allowance(volume.usage, options.limitBytes, there ? allocatedBytes(there) : 0);
  const { folder: staging, name } = volume.staging();
  const file = await staging.openNew(name).catch((error: unknown) => {
    staging.close();
    throw error;
  });
  try {
    await checkAnnounced(request, allowance);
    const size = await receive(request, file, allowance);
    const created = await place(volume, options, { staging, name, file });
    const stat = await file.stat({ bigint: true });
    if (!created && there) volume.usage.shrink(allocatedBytes(there));
    return {
      created,
      written: { path: options.segments.join('/'), size, etag: etagOf(stat), modified: stat.mtime.toISOString() },
    };
  } catch (error) {
    allowance.giveBack();
    removeIfThere(staging, name);
    throw error;
  } finally {
    staging.close();
    await file.close();
  }
}

/** A body that says itself that it is too large is refused before it is sent. */
async function checkAnnounced(request: Request, allowance: Allowance): Promise<void> {
  const announced = Number(request.headers['content-length'] ?? 0);
  if (!(announced > 0)) return;
  await allowance.take(announced);
  allowance.giveBack();
}

async function receive(request: Request, file: FileHandle, allowance: Allowance): Promise<number> {
  const sink = new FileSink(allowance).begin(file.fd);
  for await (const piece of bytesOf(request)) await sink.write(piece);
  await sink.flush();
  // Data before name: a machine that loses its power now has the old file or the new one, and never a part.
  await file.datasync();
  return sink.bytes;
}

interface Staged {
  staging: Folder;
  name: string;
  file: FileHandle;
}

/** Puts a finished file in its place, folders made as needed. Gives whether there was nothing before. */
async function place(volume: Volume, { agentId, segments, guard }: WriteOptions, staged: Staged): Promise<boolean> {
  const before = lookUp(volume, { agentId, segments });
  await staged.file.chmod(before?.isFile() ? Number(before.mode & 0o777n) : 0o644);
  // From here to the rename nothing waits, so that of two guarded writers only one finds what it asks for.
  const root = volume.workspace(agentId, { make: true });
  try {
    checkTarget(guard, lookUp(volume, { agentId, segments }));
    const { folder, name } = walk(root, segments, { last: 'followed', make: true });
    try {
      volume.checkInside(folder, agentId);
      const there = folder.stat(name);
      checkTarget(guard, there);
      // Without a name in the way the kernel itself sees to it that nothing is replaced, whoever else writes.
      if (guard.noneMatch?.trim() === '*') moveToNew(staged, folder, name);
      else staged.staging.move(staged.name, folder, name);
      return !there;
    } finally {
      folder.close();
    }
  } finally {
    root.close();
  }
}

function moveToNew(staged: Staged, folder: Folder, name: string): void {
  try {
    staged.staging.moveFileToNew(staged.name, folder, name);
  } catch (error) {
    throw systemCode(error) === 'EEXIST'
      ? new FileError('precondition_failed', 'There is something of that name already.')
      : error;
  }
}

/** What a path stands for now, without making anything. */
function lookUp(volume: Volume, { agentId, segments }: Pick<WriteOptions, 'agentId' | 'segments'>): BigIntStats | undefined {
  let root: Folder;
  try {
    root = volume.workspace(agentId);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
  try {
    const found = walkIfThere(root, segments, { last: 'followed' });
    try {
      return found?.folder.stat(found.name);
    } finally {
      found?.folder.close();
    }
  } finally {
    root.close();
  }
}

function checkTarget(guard: Guard, there: BigIntStats | undefined): void {
  if (there?.isDirectory()) throw new FileError('is_folder', 'It is a folder.');
  checkGuard(guard, there);
}

function removeIfThere(staging: Folder, name: string): void {
  try {
    staging.removeFile(name);
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw error;
  }
}
