import { randomUUID } from 'node:crypto';
import { chmod, lstat, mkdir, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { errorCode, type Log } from './log.js';

/** A folder on the volume for what is to be deleted, and for what is being made and is to be deleted should this process die over it. */
export class Trash {
  readonly #dir: string;
  readonly #log: Log;
  /** Begins the names of what this process puts here, which is not for `empty` to take. */
  readonly #life = randomUUID();
  #count = 0;

  constructor(dir: string, log: Log) {
    this.#dir = dir;
    this.#log = log;
  }

  /** A path for something to be made at, on the volume and yet nowhere in sight. It is the caller's to move away or to discard. */
  async scratch(): Promise<string> {
    await mkdir(this.#dir, { recursive: true });
    this.#count += 1;
    return join(this.#dir, `${this.#life}.${this.#count}`);
  }

  /** Takes a file or folder out of sight at once and deletes it in the background. What is not there is fine. */
  async discard(path: string): Promise<void> {
    const bin = await this.scratch();
    try {
      await rename(path, bin).catch(async (error: NodeJS.ErrnoException) => {
        if (error.code !== 'EACCES') throw error;
        // A folder that its owner may not write cannot be moved either: agents can do that to theirs.
        await unlock(path);
        await rename(path, bin);
      });
    } catch (error) {
      if (errorCode(error) === 'ENOENT') return;
      this.#log.warn('not moved away, deleted in place', { code: errorCode(error) });
      await rm(path, { recursive: true, force: true });
      return;
    }
    this.removeLater(bin);
  }

  /** Deletes what was made at a scratch path, if it is still there. */
  async remove(scratch: string): Promise<void> {
    await this.#delete(scratch);
  }

  /** The same in the background. */
  removeLater(scratch: string): void {
    void this.#delete(scratch);
  }

  /** Deletes what an earlier life of this instance had no time to. */
  async empty(): Promise<void> {
    const left = await readdir(this.#dir).catch(() => []);
    for (const name of left) if (!name.startsWith(this.#life)) await this.#delete(join(this.#dir, name));
  }

  async #delete(path: string): Promise<void> {
    try {
      await rm(path, { recursive: true, force: true }).catch(async () => {
        await unlockAll(path);
        await rm(path, { recursive: true, force: true });
      });
    } catch (error) {
      this.#log.warn('not deleted yet, tried again at the next start', { code: errorCode(error) });
    }
  }
}

/** Lets a folder's owner do with it what is needed to delete it. */
async function unlock(path: string): Promise<void> {
  if ((await lstat(path)).isDirectory()) await chmod(path, 0o700);
}

async function unlockAll(path: string): Promise<void> {
  await unlock(path);
  for (const entry of await readdir(path, { withFileTypes: true }))
    if (entry.isDirectory()) await unlockAll(join(path, entry.name));
}
