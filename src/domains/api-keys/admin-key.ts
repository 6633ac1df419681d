import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { newId } from '../../lib/ids.js';
import { newKeyText } from './key-text.js';

/**
 * The installation's first admin key: from the environment, else from `DATA_DIR/admin.key`, which is made on the first start (mode 0600).
 * `made` says that it is new, so that it can be shown this once.
 */
export async function loadOrCreateAdminKey(dataDir: string, fromEnvironment: string | undefined): Promise<{ key: string; made: boolean; path: string }> {
  const path = join(dataDir, 'admin.key');
  if (fromEnvironment !== undefined) return { key: fromEnvironment, made: false, path };
  const key = newKeyText('admin', newId('key'));
  try {
    const file = await open(path, 'wx', 0o600);
    try {
      await file.writeFile(`${key}\n`);
      await file.sync();
    } finally {
      await file.close();
    }
    return { key, made: true, path };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
  const kept = (await readFile(path, 'utf8')).trim();
  if (kept.length < 32) throw new Error(`${path} holds no key: remove it to have a new one made`);
  return { key: kept, made: false, path };
}
