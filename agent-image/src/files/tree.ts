import type { BigIntStats } from 'node:fs';
import { systemCode } from './file-error.js';
import type { Folder } from './folder.js';
import { nameOf } from './listing.js';

/** An entry somewhere below a folder; `folder` is open until the next entry is asked for. */
export interface TreeEntry {
  path: string;
  folder: Folder;
  name: string;
  stat: BigIntStats;
}

const MOST_DEPTH = 100;
const PAUSE_EVERY = 200;

/** All entries below a folder, each folder before what is in it. Links are told and not followed. */
export async function* entriesBelow(folder: Folder, prefix = '', depth = 0): AsyncGenerator<TreeEntry> {
  let seen = 0;
  for (const { name: bytes } of folder.entries()) {
    if (++seen % PAUSE_EVERY === 0) await new Promise(setImmediate);
    const name = nameOf(bytes);
    const stat = name === undefined ? undefined : folder.stat(name);
    if (name === undefined || !stat) continue;
    const path = prefix + name;
    yield { path, folder, name, stat };
    const below = stat.isDirectory() && depth < MOST_DEPTH ? enterIfOpen(folder, name) : undefined;
    if (!below) continue;
    try {
      yield* entriesBelow(below, `${path}/`, depth + 1);
    } finally {
      below.close();
    }
  }
}

/** A folder that is still one, and open to us. */
function enterIfOpen(parent: Folder, name: string): Folder | undefined {
  try {
    return parent.enter(name);
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'EACCES', 'ELOOP'].includes(systemCode(error) ?? '')) return undefined;
    throw error;
  }
}
