import { posix } from 'node:path';
import type { Request } from '../body.js';
import { staged } from './archives.js';
import { FileError, systemCode } from './file-error.js';
import { within, type Folder } from './folder.js';
import { packTar, type Packed, type Send } from './packing.js';
import { allocatedBelow } from './usage.js';
import type { Volume } from './volume.js';

/** What an agent's state is made of, as the tar names it, and where each lies on the volume. */
export const PARTS = {
  workspace: (agentId: string) => ['workspaces', agentId],
  home: (agentId: string) => ['homes', agentId],
  conversations: (agentId: string) => ['.berth', 'agents', agentId, 'conversations'],
};
/** State that came from elsewhere, for agents that no config has named yet: one folder each. */
const ARRIVALS = ['.berth', 'arrivals'];
const MOST_ENTRIES = 1_000_000;
const MOST_INCARNATION = 256;
const FORGOTTEN_MS = 24 * 3_600_000;

/** Packs an agent's workspace, home and conversations. Links that stay within their part come along. */
export async function packState(volume: Volume, agentId: string, send: Send): Promise<void> {
  await packParts(
    volume,
    Object.entries(PARTS).map(([part, where]) => [part, where(agentId)] as const),
    send,
  );
}

/** Packs parts of a state from wherever they lie; those that are nowhere are left out. */
export async function packParts(volume: Volume, parts: (readonly [part: string, where: string[]])[], send: Send): Promise<void> {
  const trees: Packed[] = [];
  try {
    for (const [part, where] of parts) {
      const folder = openIfThere(volume, where);
      if (folder) trees.push({ folder, prefix: `${part}/` });
    }
    await packTar(trees, send, staysWithin);
  } finally {
    for (const { folder } of trees) folder.close();
  }
}

/**
 * Keeps the state of an agent that is to come: once a config names it with that incarnation, it begins with it. May be done again,
 * which replaces what came before.
 */
export async function keepState(
  volume: Volume,
  request: Request,
  { agentId, incarnation, limitBytes }: { agentId: string; incarnation: string; limitBytes: number | undefined },
): Promise<{ files: number; bytes: number }> {
  if (incarnation === '' || incarnation.length > MOST_INCARNATION)
    throw new FileError('bad_request', 'incarnation: must be given');
  const limits = { entries: MOST_ENTRIES, bytes: undefined, links: staysWithin };
  // Of an agent that is here already, what it has makes room for what comes.
  const frees = limitBytes === undefined ? 0 : await bytesOfState(volume, agentId);
  return staged(volume, request, { format: 'tar', limitBytes, limits, frees }, async ({ tree, kept, take }) => {
    for (const { name } of tree.entries())
      if (!Object.hasOwn(PARTS, name.toString('utf8')) || !tree.stat(name)?.isDirectory())
        throw new FileError('bad_archive', 'The archive has something else than workspace, home and conversations.');
    for (const part of Object.keys(PARTS)) tree.makeFolder(part);
    const mark = await tree.openNew('incarnation');
    await mark.writeFile(incarnation);
    await mark.close();
    const arrivals = volume.open(ARRIVALS, { make: true });
    try {
      if (arrivals.stat(agentId)) arrivals.move(agentId, kept, agentId);
      take(arrivals, agentId);
    } finally {
      arrivals.close();
    }
  });
}

/** States that came from elsewhere, as those see them that make agents ready. */
export class Arrivals {
  readonly #volume: Volume;

  constructor(volume: Volume) {
    this.#volume = volume;
  }

  /** Whether there is a state for an agent of that incarnation. One of another is thrown away. */
  async has(agentId: string, incarnation: string): Promise<boolean> {
    const arrival = openIfThere(this.#volume, [...ARRIVALS, agentId]);
    if (!arrival) return false;
    const matches = (await readMark(arrival)) === incarnation;
    arrival.close();
    if (!matches) await this.drop(agentId);
    return matches;
  }

  /** Puts a state in the place of whatever is there. It can be done again where it broke off: what was moved already stays. */
  async adopt(agentId: string): Promise<void> {
    const arrival = this.#volume.open([...ARRIVALS, agentId]);
    try {
      for (const [part, where] of Object.entries(PARTS)) {
        if (!arrival.stat(part)) continue;
        const path = where(agentId);
        const parent = this.#volume.open(path.slice(0, -1), { make: true });
        const name = path.at(-1) as string;
        try {
          if (parent.stat(name)) await this.#volume.discard(parent, name);
          arrival.move(part, parent, name);
        } finally {
          parent.close();
        }
      }
    } finally {
      arrival.close();
    }
  }

  /** Throws the state away that was for that incarnation, which has it by now; one for another is still to be adopted. */
  async dropAdopted(agentId: string, incarnation: string): Promise<void> {
    const arrival = openIfThere(this.#volume, [...ARRIVALS, agentId]);
    if (!arrival) return;
    const mark = await readMark(arrival);
    arrival.close();
    if (mark === incarnation) await this.drop(agentId);
  }

  /** Throws away what nobody came for in all that time: who had sent it has given up. */
  async dropForgotten(olderThanMs = FORGOTTEN_MS): Promise<void> {
    const arrivals = openIfThere(this.#volume, ARRIVALS);
    if (!arrivals) return;
    await within(arrivals, async (folder) => {
      for (const { name } of folder.entries())
        if (Date.now() - Number(folder.stat(name)?.mtimeMs ?? 0n) > olderThanMs) await this.#volume.discard(folder, name);
    });
  }

  /** Throws a state away, adopted or not. */
  async drop(agentId: string): Promise<void> {
    const arrivals = openIfThere(this.#volume, ARRIVALS);
    try {
      if (arrivals?.stat(agentId)) await this.#volume.discard(arrivals, agentId);
    } finally {
      arrivals?.close();
    }
  }
}

async function bytesOfState(volume: Volume, agentId: string): Promise<number> {
  let bytes = 0;
  for (const where of Object.values(PARTS)) {
    const folder = openIfThere(volume, where(agentId));
    if (folder) bytes += await within(folder, allocatedBelow);
  }
  return bytes;
}

/** Whether a link, by its own words, leads to somewhere in the same part of the state. */
function staysWithin(path: string, target: string): boolean {
  if (target === '' || target.startsWith('/') || target.includes('\0')) return false;
  const to = posix.normalize(posix.join(posix.dirname(path), target));
  const [part = ''] = path.split('/');
  return to === part || to.startsWith(`${part}/`);
}

export function openIfThere(volume: Volume, names: string[]): Folder | undefined {
  try {
    return volume.open(names);
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(systemCode(error) ?? '')) return undefined;
    throw error;
  }
}

async function readMark(arrival: Folder): Promise<string | undefined> {
  const file = await arrival.openToRead('incarnation').catch(() => undefined);
  try {
    const buffer = Buffer.alloc(4 * MOST_INCARNATION);
    const read = (await file?.stat())?.isFile() ? await file?.read(buffer, 0, buffer.length, 0) : undefined;
    return read && buffer.toString('utf8', 0, read.bytesRead);
  } finally {
    await file?.close();
  }
}
