import { join } from 'node:path';
import { makeKeyFile, parseMasterKey, readKeyFile } from './key-files.js';

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
  const made = readKeyFile(path) ? false : await makeKeyFile(dataDir, path);
  const masterKey = readKeyFile(path);
  if (!masterKey) throw new Error(`${path} vanished while it was read`);
  return { masterKey, previous, madeFile: made ? path : undefined };
}
