import { randomUUID } from 'node:crypto';
import type { BigIntStats } from 'node:fs';
import { errorCode, type Log } from '../log.js';
import { FileError, inWords, systemCode } from './file-error.js';
import { Folder, within, type Name } from './folder.js';
import { DiskUsage, allocatedBytes } from './usage.js';

/** Where things lie on the volume, from its root (`DataFolders` says the same in paths). */
const WORKSPACES = 'workspaces';
const OWN = '.berth';
/** What is being written, until it is whole; on the same file system as where it goes, and out of every listing. */
const STAGING = 'staging';
const TRASH = 'trash';

/** How many folders deep a tree is deleted in one go; what is deeper is taken out and deleted by itself. */
const MOST_DEPTH = 64;
const WAIT_FOR_DELETION_MS = 10_000;
const PAUSE_EVERY = 200;

/** The data volume, as the file calls see it. */
export class Volume {
  readonly usage: DiskUsage;
  readonly #dataDir: string;
  readonly #log: Log;

  constructor(dataDir: string, log: Log) {
    this.#dataDir = dataDir;
    this.#log = log;
    this.usage = new DiskUsage(() => this.root());
  }

  root(): Folder {
    return Folder.open(this.#dataDir);
  }

  /** A folder by its names from the root. None of them may be a link: agents can write here too. */
  open(names: string[], options: { make?: boolean } = {}): Folder {
    let at = this.root();
    for (const name of names) {
      const parent = at;
      try {
        at = options.make ? parent.enterOrMake(name) : parent.enter(name);
      } finally {
        parent.close();
      }
    }
    return at;
  }

  /** The folder that an agent works in; one that the agent has deleted is made again where something is to be put there. */
  workspace(agentId: string, options: { make?: boolean } = {}): Folder {
    return this.open([WORKSPACES, agentId], options);
  }

  /** Where an agent's own things are kept: its conversations. */
  kept(agentId: string, options: { make?: boolean } = {}): Folder {
    return this.open([OWN, 'agents', agentId], options);
  }

  /** A name in the staging folder that nothing has yet; the caller opens what it wants there. */
  staging(): { folder: Folder; name: string } {
    return { folder: this.open([OWN, STAGING], { make: true }), name: randomUUID() };
  }

  /** Throws where a folder that was found in a workspace is not in it any more: it was moved away, or the agent was removed. */
  checkInside(folder: Folder, agentId: string): void {
    const root = this.root();
    try {
      const home = `${root.realPath}/${WORKSPACES}/${agentId}`;
      const real = folder.realPath;
      if (real !== home && !real.startsWith(`${home}/`))
        throw new FileError('not_found', 'The folder was moved or removed meanwhile.');
    } finally {
      root.close();
    }
  }

  /** Takes a file or a whole folder out of sight at once, and deletes it; a large one goes on being deleted after the answer. */
  async discard(folder: Folder, name: Name): Promise<void> {
    const bin = randomUUID();
    let trash: Folder;
    try {
      trash = this.open([OWN, TRASH], { make: true });
      folder.move(name, trash, bin);
    } catch (error) {
      // A disk so full that not even a folder's entry fits: then it is deleted where it is.
      if (!['ENOSPC', 'EDQUOT'].includes(systemCode(error) ?? '')) throw error;
      trash = folder.again();
      await within(trash, () => this.#delete(trash, name));
      return;
    }
    const deleted = within(trash, () => this.#delete(trash, bin)).catch((error: unknown) =>
      this.#log.warn('not deleted yet, tried again at the next start', { code: errorCode(error) }),
    );
    await orLater(deleted, WAIT_FOR_DELETION_MS);
  }

  /** Throws away what an earlier life of this process was writing when it ended. To be called before anything is staged. */
  clean(): void {
    try {
      const own = this.open([OWN], { make: true });
      const trash = own.enterOrMake(TRASH);
      if (own.stat(STAGING)) own.move(STAGING, trash, randomUUID());
      trash.close();
      own.close();
    } catch (error) {
      this.#log.warn('staged files not thrown away', { code: errorCode(error) });
    }
  }

  /** Deletes an entry and all below it, without following a link, in steps that leave room for other work. */
  async #delete(folder: Folder, name: Name): Promise<void> {
    const stat = folder.stat(name);
    if (!stat?.isDirectory()) {
      this.#deleteFile(folder, name, stat);
      return;
    }
    const deep: string[] = [];
    await this.#deleteFolder(folder, name, { top: folder, deep, depth: 0, steps: { left: PAUSE_EVERY } });
    for (const taken of deep) await this.#delete(folder, taken);
  }

  async #deleteFolder(parent: Folder, name: Name, task: Deletion): Promise<void> {
    await within(parent.enter(name), async (folder) => {
      folder.unlock();
      for (const entry of folder.entries()) {
        if (task.steps.left-- <= 0) {
          task.steps.left = PAUSE_EVERY;
          await new Promise(setImmediate);
        }
        const stat = folder.stat(entry.name);
        if (!stat?.isDirectory()) this.#deleteFile(folder, entry.name, stat);
        else if (task.depth < MOST_DEPTH) await this.#deleteFolder(folder, entry.name, { ...task, depth: task.depth + 1 });
        else {
          const taken = randomUUID();
          folder.move(entry.name, task.top, taken);
          task.deep.push(taken);
        }
      }
    });
    parent.removeEmptyFolder(name);
  }

  #deleteFile(folder: Folder, name: Name, stat: BigIntStats | undefined): void {
    if (!stat) return;
    folder.removeFile(name);
    if (stat.nlink === 1n) this.usage.shrink(allocatedBytes(stat));
  }
}

interface Deletion {
  /** Where folders that lie too deep are put, to be deleted after. */
  top: Folder;
  deep: string[];
  depth: number;
  steps: { left: number };
}

async function orLater(work: Promise<void>, withinMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, withinMs)));
  await Promise.race([work, late]);
  clearTimeout(timer);
}

/** Runs a file call; what the file system says against it becomes an answer. */
export async function answering<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw inWords(error);
  }
}
