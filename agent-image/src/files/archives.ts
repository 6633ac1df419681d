import type { Request } from '../body.js';
import { inFolder, inWorkspace } from './changing.js';
import { FileError, systemCode } from './file-error.js';
import type { Folder } from './folder.js';
import { merge } from './merging.js';
import type { ArchiveFormat } from './packing.js';
import { walkToFolder } from './place.js';
import { FileSink, bytesOf } from './receiving.js';
import { Stage, type StageLimits } from './stage.js';
import { unpackTar, unpackZip } from './unpacking.js';
import { Allowance, allocatedBytes } from './usage.js';
import type { Volume } from './volume.js';

export interface UnpackOptions {
  agentId: string;
  /** The folder to unpack into, made where it is not there. */
  segments: string[];
  format: ArchiveFormat;
  limitBytes: number | undefined;
  /** Most that may come out of the archive, besides what the quota says. */
  mostBytes: number | undefined;
}

const MOST_ENTRIES = 10_000;
const TREE = 'tree';
const KEPT = 'kept';

/** Unpacks a body into a folder of the workspace: all of it, or, where anything is wrong with it, nothing. */
export async function unpack(
  volume: Volume,
  request: Request,
  options: UnpackOptions,
): Promise<{ files: number; bytes: number }> {
  const { agentId, segments, format, limitBytes, mostBytes } = options;
  // A folder that cannot be is told before the body is taken.
  checkTarget(volume, agentId, segments);
  const limits = { entries: MOST_ENTRIES, bytes: mostBytes };
  const replaces = (path: string[]) => bytesAt(volume, agentId, [...segments, ...path]);
  return staged(volume, request, { format, limitBytes, limits, replaces }, ({ tree, kept }) =>
    inFolder(volume, { agentId, segments, make: true }, async (target) => {
      volume.checkInside(target, agentId);
      await merge(tree, target, kept);
    }),
  );
}

export interface StagedOptions {
  format: ArchiveFormat;
  limitBytes: number | undefined;
  limits: StageLimits;
  replaces?: (path: string[]) => number;
  /** What will be freed by all of it being put in its place. */
  frees?: number;
}

/** What came out of an archive, for whoever puts it in its place. */
export interface Unpacked {
  tree: Folder;
  /** For what is replaced. */
  kept: Folder;
  /** Moves the tree as a whole. */
  take(to: Folder, name: string): void;
}

/** Unpacks a body out of sight and gives what came of it to `place`. What that has not moved away is gone afterwards. */
export async function staged(
  volume: Volume,
  request: Request,
  { format, limitBytes, limits, replaces, frees }: StagedOptions,
  place: (unpacked: Unpacked) => Promise<void>,
): Promise<{ files: number; bytes: number }> {
  const allowance = new Allowance(volume.usage, limitBytes, frees);
  const { folder: staging, name } = volume.staging();
  try {
    const own = staging.enterOrMake(name);
    const tree = own.enterOrMake(TREE);
    const kept = own.enterOrMake(KEPT);
    try {
      const stage = new Stage(tree, { allowance, limits, ...(replaces ? { replaces } : {}) });
      if (format === 'tar') await unpackTar(bytesOf(request), stage);
      else await spoolAndUnpack(volume, request, { own, stage, limitBytes });
      await place({ tree, kept, take: (to, newName) => own.move(TREE, to, newName) });
      return { files: stage.files, bytes: stage.bytes };
    } finally {
      for (const folder of [kept, tree, own]) folder.close();
    }
  } finally {
    // What is deleted here is taken off the figures as it goes; what was moved into place stays counted.
    await volume.discard(staging, name);
    staging.close();
  }
}

/** A zip's list of contents is at its end, so that all of it must be there before any of it can be read. */
async function spoolAndUnpack(
  volume: Volume,
  request: Request,
  { own, stage, limitBytes }: { own: Folder; stage: Stage; limitBytes: number | undefined },
): Promise<void> {
  const spool = new Allowance(volume.usage, limitBytes);
  const file = await own.openNew('zip');
  try {
    const sink = new FileSink(spool).begin(file.fd);
    for await (const piece of bytesOf(request)) await sink.write(piece);
    await sink.flush();
    // It goes away in any case: for what comes out of it the room counts as free.
    own.removeFile('zip');
    spool.giveBack();
    await unpackZip(file, stage);
  } finally {
    spool.giveBack();
    await file.close();
  }
}

function checkTarget(volume: Volume, agentId: string, segments: string[]): void {
  try {
    const root = volume.workspace(agentId);
    try {
      walkToFolder(root, segments).close();
    } finally {
      root.close();
    }
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw error;
  }
}

function bytesAt(volume: Volume, agentId: string, segments: string[]): number {
  const opened: Folder[] = [];
  try {
    opened.push(volume.workspace(agentId));
    for (const name of segments.slice(0, -1)) opened.push((opened.at(-1) as Folder).enter(name));
    const stat = opened.at(-1)?.stat(segments.at(-1) as string);
    return stat?.isFile() ? allocatedBytes(stat) : 0;
  } catch {
    return 0; // Nothing there, or not to be reached: nothing is freed.
  } finally {
    for (const folder of opened) folder.close();
  }
}

/** Opens the folder that is to be packed, or throws what keeps it from being. */
export async function withPacked<T>(
  volume: Volume,
  { agentId, segments }: { agentId: string; segments: string[] },
  work: (folder: Folder) => Promise<T>,
): Promise<T> {
  if (segments.length === 0) return inFolder(volume, { agentId, segments }, work);
  return inWorkspace(volume, agentId, async (root) => {
    const folder = walkToFolder(root, segments);
    try {
      return await work(folder);
    } finally {
      folder.close();
    }
  });
}

export function formatOf(given: string | null): ArchiveFormat {
  if (given === null || given === 'tar') return 'tar';
  if (given === 'zip') return 'zip';
  throw new FileError('bad_request', 'format: must be tar or zip');
}
