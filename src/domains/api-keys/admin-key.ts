import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { newId } from '../../lib/ids.js';
import { writeOnce } from '../../lib/write-once.js';
import { newKeyText } from './key-text.js';

/**
 * The installation's first admin key: from the environment, else from `DATA_DIR/admin.key`, which is made on the first start (mode 0600).
 * `made` says that it is new, so that it can be shown this once.
 */
export async function loadOrCreateAdminKey(
  dataDir: string,
  fromEnvironment: string | undefined,
): Promise<{ key: string; made: boolean; path: string }> {
  const path = join(dataDir, 'admin.key');
  if (fromEnvironment !== undefined) return { key: fromEnvironment, made: false, path };
  const key = newKeyText('admin', newId('key'));
  if (await writeOnce(path, `${key}\n`)) return { key, made: true, path };
  const kept = (await readFile(path, 'utf8')).trim();
  if (kept.length < 32) throw new Error(`${path} holds no key: remove it to have a new one made`);
  return { key: kept, made: false, path };
}
