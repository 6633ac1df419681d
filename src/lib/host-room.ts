import { freemem, totalmem } from 'node:os';
import { statfs } from 'node:fs/promises';

const MIB = 1024 * 1024;
const FRESH_MS = 500;

/** What this host has now, measured again when it is older than a moment. A folder that is not there says nothing of the disk. */
export function hostRoom({ memoryMib, folder }: { memoryMib: number | undefined; folder: string }) {
  const look = async () => {
    const disk = await statfs(folder).catch(() => undefined);
    return {
      memoryMib: memoryMib ?? Math.floor(totalmem() / MIB),
      availableMib: Math.floor(freemem() / MIB),
      diskFreeMib: disk && Math.floor((disk.bavail * disk.bsize) / MIB),
    };
  };
  let last: { atMs: number; room: ReturnType<typeof look> } | undefined;
  return () => {
    const nowMs = performance.now();
    if (last === undefined || nowMs - last.atMs > FRESH_MS) last = { atMs: nowMs, room: look() };
    return last.room;
  };
}
