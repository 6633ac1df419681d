import { freemem, totalmem } from 'node:os';
import { statfs } from 'node:fs/promises';

const MIB = 1024 * 1024;
const FRESH_MS = 500;

/**
 * What this host has now, measured again when it is older than a moment. Of the disks that these folders are on the one counts that has least; a folder
 * that is not there says nothing.
 */
export function hostRoom({ memoryMib, folders }: { memoryMib: number | undefined; folders: string[] }) {
  const look = async () => {
    const disks = await Promise.all(folders.map((folder) => statfs(folder).catch(() => undefined)));
    const free = disks.flatMap((disk) => (disk ? [Math.floor((disk.bavail * disk.bsize) / MIB)] : []));
    return {
      memoryMib: memoryMib ?? Math.floor(totalmem() / MIB),
      availableMib: Math.floor(freemem() / MIB),
      diskFreeMib: free.length === 0 ? undefined : Math.min(...free),
    };
  };
  let last: { atMs: number; room: ReturnType<typeof look> } | undefined;
  return () => {
    const nowMs = performance.now();
    if (last === undefined || nowMs - last.atMs > FRESH_MS) last = { atMs: nowMs, room: look() };
    return last.room;
  };
}
