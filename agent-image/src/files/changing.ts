import { checkGuard, type Guard } from './conditions.js';
import { FileError } from './file-error.js';
import type { Folder } from './folder.js';
import { entryOf, type Entry } from './listing.js';
import { walk, walkToFolder } from './place.js';
import type { Volume } from './volume.js';

/** Deletes a file or a link, or, where that was asked for, a folder with all in it. */
export async function remove(
  volume: Volume,
  { agentId, segments, recursive, guard }: { agentId: string; segments: string[]; recursive: boolean; guard: Guard },
): Promise<void> {
  if (segments.length === 0) throw new FileError('bad_path', 'path: must not be the workspace itself');
  await inWorkspace(volume, agentId, async (root) => {
    const { folder, name } = walk(root, segments, { last: 'itself' });
    try {
      const stat = folder.stat(name);
      if (!stat) throw new FileError('not_found', 'There is no such file or folder.');
      if (stat.isDirectory() && !recursive) throw new FileError('is_folder', 'It is a folder; say recursive=true to delete it.');
      checkGuard(guard, stat);
      await volume.discard(folder, name);
    } finally {
      folder.close();
    }
  });
}

/** Moves a file, a link or a folder. Nothing is replaced unless that was asked for, and a folder only where it is empty. */
export async function move(
  volume: Volume,
  { agentId, from, to, overwrite }: { agentId: string; from: string[]; to: string[]; overwrite: boolean },
): Promise<{ entry: Entry; replaced: boolean }> {
  if (from.length === 0 || to.length === 0) throw new FileError('bad_path', 'from, to: must not be the workspace itself');
  return inWorkspace(volume, agentId, (root) => {
    const source = walk(root, from, { last: 'itself' });
    try {
      const stat = source.folder.stat(source.name);
      if (!stat) throw new FileError('not_found', 'from: there is no such file or folder');
      const target = walk(root, to, { last: 'itself', make: true });
      try {
        volume.checkInside(target.folder, agentId);
        const there = target.folder.stat(target.name);
        if (there && !overwrite) throw new FileError('exists', 'to: there is something of that name already');
        if (stat.isFile() && !overwrite) source.folder.moveFileToNew(source.name, target.folder, target.name);
        else source.folder.move(source.name, target.folder, target.name);
        return { entry: entryOf(to.join('/'), target.folder.stat(target.name) ?? stat), replaced: there !== undefined };
      } finally {
        target.folder.close();
      }
    } finally {
      source.folder.close();
    }
  });
}

/** Makes a folder and those above it. Says whether it was not there before. */
export async function makeFolder(
  volume: Volume,
  { agentId, segments }: { agentId: string; segments: string[] },
): Promise<{ entry: Entry; created: boolean }> {
  const root = volume.workspace(agentId, { make: true });
  try {
    const { folder, name } = walk(root, segments, { last: 'followed', make: true });
    try {
      volume.checkInside(folder, agentId);
      const created = name !== '.' && folder.makeFolder(name);
      const stat = folder.stat(name);
      if (!stat?.isDirectory()) throw new FileError('exists', 'There is something of that name that is not a folder.');
      return { entry: entryOf(segments.join('/'), stat), created };
    } finally {
      folder.close();
    }
  } finally {
    root.close();
  }
}

/** Runs `work` with the folder that an agent works in. */
export async function inWorkspace<T>(volume: Volume, agentId: string, work: (root: Folder) => T | Promise<T>): Promise<T> {
  const root = volume.workspace(agentId);
  try {
    return await work(root);
  } finally {
    root.close();
  }
}

/** Runs `work` with a folder of a workspace. The workspace itself is empty where the agent has deleted it. */
export async function inFolder<T>(
  volume: Volume,
  { agentId, segments, make = false }: { agentId: string; segments: string[]; make?: boolean },
  work: (folder: Folder) => T | Promise<T>,
): Promise<T> {
  const root = volume.workspace(agentId, { make: make || segments.length === 0 });
  try {
    const folder = walkToFolder(root, segments, { make });
    try {
      return await work(folder);
    } finally {
      folder.close();
    }
  } finally {
    root.close();
  }
}
