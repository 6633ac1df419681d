import { createHash } from 'node:crypto';
import { lstat, mkdir, open, readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { Request } from '../body.js';
import { DIGEST } from '../config.js';
import { HttpError } from '../errors.js';
import { inWords as fileErrorInWords } from '../files/file-error.js';
import { bytesOf } from '../files/receiving.js';
import type { Trash } from '../trash.js';
import { unpack } from './unpack.js';

const MOST_BYTES = 64 * 1024 * 1024;

/**
 * The packages that skills are made of, each unpacked in a folder that is named by the digest of its tar. A folder is there as a whole or
 * not at all: what is being received lies in the trash until it is done.
 */
export class Packages {
  readonly #dir: string;
  readonly #trash: Trash;

  constructor(dir: string, trash: Trash) {
    this.#dir = dir;
    this.#trash = trash;
  }

  folderOf(digest: string): string {
    return join(this.#dir, digest);
  }

  async has(digest: string): Promise<boolean> {
    const stat = await lstat(this.folderOf(digest)).catch(() => undefined);
    return stat?.isDirectory() === true;
  }

  /** Those of the digests that are not there, each once. */
  async missing(digests: Iterable<string>): Promise<string[]> {
    const missing: string[] = [];
    for (const digest of new Set(digests)) if (!(await this.has(digest))) missing.push(digest);
    return missing;
  }

  /** Takes a package in. Throws 400 where it is not what its digest says or no honest tar, 413 over 64 MB, 507 on a full disk. */
  async receive(digest: string, request: Request): Promise<void> {
    const tar = await this.#trash.scratch();
    const folder = await this.#trash.scratch();
    try {
      await writeChecked(request, tar, digest);
      await unpack(tar, folder);
      await mkdir(this.#dir, { recursive: true });
      await rename(folder, this.folderOf(digest)).catch(async (error: unknown) => {
        // Another call was quicker, and brought the same.
        if (!(await this.has(digest))) throw error;
      });
    } catch (error) {
      throw fileErrorInWords(error);
    } finally {
      await this.#trash.remove(tar);
      await this.#trash.remove(folder);
    }
  }

  /** Removes all other packages. */
  async keepOnly(digests: Iterable<string>): Promise<void> {
    const kept = new Set(digests);
    const all = await readdir(this.#dir).catch(() => []);
    for (const name of all) if (!kept.has(name) && DIGEST.test(name)) await this.#trash.discard(join(this.#dir, name));
  }
}

async function writeChecked(request: Request, path: string, digest: string): Promise<void> {
  if (Number(request.headers['content-length'] ?? 0) > MOST_BYTES) throw tooLarge();
  const hash = createHash('sha256');
  const file = await open(path, 'wx', 0o600);
  let bytes = 0;
  try {
    for await (const piece of bytesOf(request)) {
      bytes += piece.length;
      if (bytes > MOST_BYTES) throw tooLarge();
      hash.update(piece);
      await file.writeFile(piece);
    }
  } finally {
    await file.close();
  }
  if (hash.digest('hex') !== digest)
    throw new HttpError(400, 'invalid_request_error', 'The package is not the one of that digest.', {}, { code: 'wrong_digest' });
}

function tooLarge(): HttpError {
  const message = `A package has at most ${MOST_BYTES / 1024 / 1024} MB.`;
  return new HttpError(413, 'invalid_request_error', message, {}, { code: 'too_large' });
}
