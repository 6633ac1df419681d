import { randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf } from '../../db/errors.js';
import { AppError } from '../../lib/errors.js';

const READ_BYTES = 256 * 1024;
const NAME = /^(snp_[0-9a-z]{26})\.(?:snapshot|[0-9a-f]{12}\.part)$/;

/** A file on its way: nowhere to be found until it is `keep`t. */
export interface NewFile {
  bytes: number;
  /** Its bytes, to be looked at before it is kept. */
  read(): AsyncIterable<Buffer>;
  /** Puts it in its place, to be there after a loss of power too. */
  keep(): Promise<void>;
  discard(): Promise<void>;
}

/** Another writer has begun the same file anew, and this one's is gone: what comes of it is the other one's. */
export class TakenOver extends Error {
  constructor(id: string) {
    super(`the file of ${id} is being written by another by now`);
    this.name = 'TakenOver';
  }
}

/** The files of snapshots: a folder for each user below one that all Berth processes of a host share. The rows in the database are the truth. */
export class SnapshotFiles {
  readonly #dir: string;

  constructor(dir: string) {
    this.#dir = dir;
  }

  /**
   * Writes a file that is not there yet, and clears away what a dead process left half-written of it, but no file that is in its place: its row may say
   * by now that it is ready. `insufficient_storage` where the disk is full; nothing stays of one that is not finished.
   */
  async write(userId: string, id: string, source: AsyncIterable<Uint8Array>): Promise<NewFile> {
    const folder = join(this.#dir, userId);
    const path = join(folder, `${id}.${randomBytes(6).toString('hex')}.part`);
    const discard = () => rm(path, { force: true });
    try {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      await this.#removeThose(userId, id, (name) => name.endsWith('.part'));
      const file = await open(path, 'wx', 0o600);
      let bytes = 0;
      try {
        for await (const piece of source) {
          await file.writeFile(piece);
          bytes += piece.length;
        }
        await file.sync();
      } finally {
        await file.close();
      }
      const keep = async () => {
        await rename(path, join(folder, `${id}.snapshot`)).catch((error: unknown) => {
          throw codeOf(error) === 'ENOENT' ? new TakenOver(id) : error;
        });
        await syncFolder(folder);
      };
      return { bytes, read: () => reading(path), keep, discard };
    } catch (error) {
      await discard();
      if (!['ENOSPC', 'EDQUOT'].includes(codeOf(error) ?? '')) throw error;
      throw new AppError('insufficient_storage', 'the disk on which Berth keeps snapshots is full', { cause: error });
    }
  }

  read(userId: string, id: string): AsyncIterable<Buffer> {
    return reading(this.#path(userId, id));
  }

  async has(userId: string, id: string): Promise<boolean> {
    return stat(this.#path(userId, id)).then(
      (found) => found.isFile(),
      (error: unknown) => {
        if (codeOf(error) === 'ENOENT') return false;
        throw error;
      },
    );
  }

  /** Also what is being written of it. */
  async remove(userId: string, id: string): Promise<void> {
    await this.#removeThose(userId, id, () => true);
  }

  /** All that a user has, also what is being written. */
  async removeAll(userId: string): Promise<void> {
    await rm(join(this.#dir, userId), { recursive: true, force: true });
  }

  /** Deletes files that nobody has written to for so long and that are not among those to be kept; asks about one user at a time. */
  async sweep(idleMs: number, isKept: (userId: string, ids: string[]) => Promise<Set<string>>): Promise<void> {
    for (const userId of await entries(this.#dir)) {
      const folder = join(this.#dir, userId);
      const found = (await entries(folder)).flatMap((name) => {
        const id = NAME.exec(name)?.[1];
        return id === undefined ? [] : [{ id, name, isPart: name.endsWith('.part') }];
      });
      const kept = await isKept(userId, [...new Set(found.map(({ id }) => id))]);
      for (const { id, name, isPart } of found)
        if ((isPart || !kept.has(id)) && (await ageMs(join(folder, name))) > idleMs)
          await rm(join(folder, name), { force: true });
    }
  }

  async #removeThose(userId: string, id: string, isWanted: (name: string) => boolean): Promise<void> {
    const folder = join(this.#dir, userId);
    for (const name of await entries(folder))
      if (NAME.exec(name)?.[1] === id && isWanted(name)) await rm(join(folder, name), { force: true });
  }

  #path(userId: string, id: string): string {
    return join(this.#dir, userId, `${id}.snapshot`);
  }
}

function reading(path: string): AsyncIterable<Buffer> {
  return createReadStream(path, { highWaterMark: READ_BYTES }) as AsyncIterable<Buffer>;
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

async function entries(dir: string): Promise<string[]> {
  return readdir(dir).catch((error: unknown) => {
    if (['ENOENT', 'ENOTDIR'].includes(codeOf(error) ?? '')) return [];
    throw error;
  });
}

async function ageMs(path: string): Promise<number> {
  return stat(path).then(
    ({ mtimeMs }) => Date.now() - mtimeMs,
    () => 0,
  );
}
