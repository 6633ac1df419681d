import type { SkillConfig } from '../config.js';
import { within, type Folder } from '../files/folder.js';
import { enterOrReplace, writeByRename, type Workspace } from '../workspace.js';

const FOLDER = '.clawhub';
const FILE = 'lock.json';
const MOST_BYTES = 1024 * 1024;

interface Lock {
  version: 1;
  skills: Record<string, unknown>;
}

/**
 * Keeps `.clawhub/lock.json` of a workspace: what the registry's own tools read to know which versions are installed. Entries of skills
 * that the agent has installed by itself stay; `before` names the skills that were Berth's.
 */
export async function writeLock(workspace: Workspace, skills: readonly SkillConfig[], before: readonly string[]): Promise<void> {
  const ours = skills.filter(({ lock }) => lock !== undefined);
  const root = workspace.open();
  try {
    if (ours.length === 0 && !root.stat(FOLDER)) return;
    await within(enterOrReplace(root, FOLDER), async (folder) => {
      const text = await readText(folder);
      const theirs = Object.entries(entriesIn(text)).filter(([key]) => !before.includes(key));
      const lock: Lock = {
        version: 1,
        skills: Object.fromEntries([...theirs, ...ours.map(({ name, lock: entry }) => [name, entry])]),
      };
      if (text === undefined && ours.length === 0) return;
      const wanted = `${JSON.stringify(lock, null, 2)}\n`;
      if (wanted !== text) await writeByRename(folder, FILE, wanted, 'replace');
    });
  } finally {
    root.close();
  }
}

/** The file's text; undefined where it is none, too large, or something else than a file. */
async function readText(folder: Folder): Promise<string | undefined> {
  const stat = folder.stat(FILE);
  if (!stat?.isFile() || stat.size > MOST_BYTES) return undefined;
  const file = await folder.openToRead(FILE).catch(() => undefined);
  if (!file) return undefined;
  try {
    const { size } = await file.stat();
    const buffer = Buffer.alloc(Math.min(size, MOST_BYTES));
    const { bytesRead } = await file.read(buffer, 0, buffer.length, 0);
    return buffer.toString('utf8', 0, bytesRead);
  } finally {
    await file.close();
  }
}

function entriesIn(text: string | undefined): Record<string, unknown> {
  try {
    const { skills } = JSON.parse(text ?? '{}') as Partial<Lock>;
    return typeof skills === 'object' && skills !== null && !Array.isArray(skills) ? skills : {};
  } catch {
    return {};
  }
}
