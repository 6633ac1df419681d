import { randomBytes } from 'node:crypto';
import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';
import { link, mkdir, open, readdir, rename, rm, stat, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { MASTER_KEY_BYTES, masterKeyId } from './key-ring.js';

const NAME = 'master.key';
/** The longest that a file which is being written stays aside. */
const ASIDE_AT_MOST_MS = 60_000;

/**
 * The master keys in the data folder: `master.key`, while it is being changed `master.key.next`, and after that `master.key.previous`, which
 * opens what was sealed before and may be removed once no backup needs it.
 */
export class KeyFiles {
  readonly #dataDir: string;

  constructor(dataDir: string) {
    this.#dataDir = dataDir;
  }

  get path(): string {
    return join(this.#dataDir, NAME);
  }

  /** All keys that are there. Without a wait in between, since whoever meets a key that it does not know asks in the midst of opening. */
  readAll(): Buffer[] {
    return [this.path, this.#next, this.#previous].flatMap((path) => readKeyFile(path) ?? []);
  }

  /** The id of the next key, if there is one. */
  nextId(): string | undefined {
    const key = readKeyFile(this.#next);
    return key && idOf(key);
  }

  /** Makes the next key, or finds the one that was begun with; answers its id. On disk for good when this returns. */
  async makeNext(): Promise<string> {
    await makeKeyFile(this.#dataDir, this.#next);
    const id = this.nextId();
    if (id === undefined) throw new Error(`${this.#next} vanished while it was read`);
    return id;
  }

  /**
   * The next key becomes the key, and the key the previous one. Can be killed anywhere and done again. Two processes must not do it at once.
   */
  async promote(id: string): Promise<void> {
    if (this.nextId() !== id) return;
    const now = readKeyFile(this.path);
    if (now && idOf(now) !== id) {
      const aside = asideOf(this.#previous);
      await link(this.path, aside);
      await rename(aside, this.#previous);
      // Renaming does nothing where both are the same file already, as after a kill at this point.
      await rm(aside, { force: true });
    }
    await rename(this.#next, this.path);
    await syncFolder(this.#dataDir);
  }

  /** Removes what a process left that died while it wrote a key. */
  async tidy(): Promise<void> {
    for (const name of await readdir(this.#dataDir)) {
      if (!/^master\.key(\.next|\.previous)?\.[0-9a-f]{12}$/.test(name)) continue;
      const path = join(this.#dataDir, name);
      if (Date.now() - (await stat(path)).ctimeMs > ASIDE_AT_MOST_MS) await unlink(path);
    }
  }

  get #next(): string {
    return `${this.path}.next`;
  }

  get #previous(): string {
    return `${this.path}.previous`;
  }
}

function idOf(key: Buffer): string {
  const id = masterKeyId(key);
  key.fill(0);
  return id;
}

/**
 * 32 bytes written as 64 hexadecimal digits or as base64 (either alphabet). The error names where they came from, never what
 * they are.
 */
export function parseMasterKey(text: string, where: string): Buffer {
  const trimmed = text.trim();
  const key = /^[0-9a-f]{64}$/i.test(trimmed) ? Buffer.from(trimmed, 'hex') : fromBase64(trimmed);
  if (key?.length !== MASTER_KEY_BYTES) {
    throw new Error(
      `${where} must be ${MASTER_KEY_BYTES} random bytes as base64 or hex; make them with: openssl rand -base64 ${MASTER_KEY_BYTES}`,
    );
  }
  if (new Set(key).size < 8) throw new Error(`${where} is not random`);
  return key;
}

function fromBase64(text: string): Buffer | undefined {
  return /^[A-Za-z0-9+/_-]{43}=?$/.test(text) ? Buffer.from(text, 'base64') : undefined;
}

/** The key in a file, if there is one. A file that others may read, or that is none, is refused. */
export function readKeyFile(path: string): Buffer | undefined {
  let file: number;
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    if (codeOf(error) === 'ELOOP')
      throw new Error(`${path} is a symbolic link; Berth reads its master key from a plain file only`, { cause: error });
    throw error;
  }
  try {
    const found = fstatSync(file);
    if (!found.isFile()) throw new Error(`${path} is not a plain file`);
    const mode = found.mode & 0o777;
    if (mode & 0o077)
      throw new Error(`${path} has mode ${mode.toString(8).padStart(4, '0')}: others may read it. Run: chmod 600 ${path}`);
    return parseMasterKey(readFileSync(file, 'utf8'), path);
  } finally {
    closeSync(file);
  }
}

/** Written aside and linked: whoever comes second finds a whole key, never half of one. False when another process was first. */
export async function makeKeyFile(dataDir: string, path: string): Promise<boolean> {
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  const aside = asideOf(path);
  const file = await open(aside, 'wx', 0o600);
  try {
    await file.writeFile(`${randomBytes(MASTER_KEY_BYTES).toString('base64')}\n`);
    await file.sync();
    await link(aside, path);
    await syncFolder(dataDir);
    return true;
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false;
    throw error;
  } finally {
    await file.close();
    await unlink(aside);
  }
}

function asideOf(path: string): string {
  return `${path}.${randomBytes(6).toString('hex')}`;
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException | undefined)?.code;
}
