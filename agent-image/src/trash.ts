import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rename, rm } from 'node:fs/promises';
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
      await rename(path, bin);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
      this.#log.warn('not moved away, deleted in place', { code: errorCode(error) });
      await rm(path, { recursive: true, force: true });
      return;
    }
    void this.#delete(bin);
  }

  /** Deletes what an earlier life of this instance had no time to. */
  async empty(): Promise<void> {
    const left = await readdir(this.#dir).catch(() => []);
    for (const name of left) if (!name.startsWith(this.#life)) await this.#delete(join(this.#dir, name));
  }

  async #delete(path: string): Promise<void> {
    try {
      await rm(path, { recursive: true, force: true });
    } catch (error) {
      this.#log.warn('not deleted yet, tried again at the next start', { code: errorCode(error) });
    }
  }
}
