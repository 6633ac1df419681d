import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, link, mkdir, open, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { MASTER_KEY_BYTES } from './key-ring.js';

export interface MasterKeys {
  masterKey: Buffer;
  previous: Buffer | undefined;
  /** The file that was made just now, if one was: the operator must keep a copy of it. */
  madeFile: string | undefined;
}

/** As in the environment: MASTER_KEY and MASTER_KEY_PREVIOUS. */
export interface MasterKeyTexts {
  masterKey?: string | undefined;
  masterKeyPrevious?: string | undefined;
}

/**
 * The master keys: from the environment, else from `master.key` in the data folder, which is made on the first start (mode 0600).
 * Processes that start together get the same key. A file that others may read is refused.
 */
export async function loadOrCreateMasterKey(dataDir: string, texts: MasterKeyTexts = {}): Promise<MasterKeys> {
  const previous =
    texts.masterKeyPrevious === undefined ? undefined : parseMasterKey(texts.masterKeyPrevious, 'MASTER_KEY_PREVIOUS');
  if (texts.masterKey !== undefined)
    return { masterKey: parseMasterKey(texts.masterKey, 'MASTER_KEY'), previous, madeFile: undefined };
  const path = join(dataDir, 'master.key');
  const made = (await readKeyFile(path)) ? false : await makeKeyFile(dataDir, path);
  const masterKey = await readKeyFile(path);
  if (!masterKey) throw new Error(`${path} vanished while it was read`);
  return { masterKey, previous, madeFile: made ? path : undefined };
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

async function readKeyFile(path: string): Promise<Buffer | undefined> {
  let file: FileHandle;
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    if (codeOf(error) === 'ELOOP')
      throw new Error(`${path} is a symbolic link; Berth reads its master key from a plain file only`, { cause: error });
    throw error;
  }
  try {
    const found = await file.stat();
    if (!found.isFile()) throw new Error(`${path} is not a plain file`);
    const mode = found.mode & 0o777;
    if (mode & 0o077)
      throw new Error(`${path} has mode ${mode.toString(8).padStart(4, '0')}: others may read it. Run: chmod 600 ${path}`);
    return parseMasterKey(await file.readFile('utf8'), path);
  } finally {
    await file.close();
  }
}

/** Written aside and linked: whoever comes second finds a whole key, never half of one. False when another process was first. */
async function makeKeyFile(dataDir: string, path: string): Promise<boolean> {
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  const aside = `${path}.${randomBytes(6).toString('hex')}`;
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
