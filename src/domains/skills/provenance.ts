import { createHash } from 'node:crypto';
import type { Resolved } from '../../clawhub/clawhub.js';
import type { SkillFile } from './intake.js';
import { sha256 } from './package.js';

/** What the registry's own client and OpenClaw write beside an installed skill, so that either of them can go on from there. */
export interface Provenance {
  fingerprint: string;
  archiveSha256: string;
  /** `.clawhub/origin.json` of the skill's folder. */
  origin: SkillFile;
  /** The entry for `.clawhub/lock.json` of the workspace. */
  lock: Record<string, unknown>;
}

export function provenanceOf(
  registry: string,
  resolved: Resolved,
  archive: Buffer,
  files: readonly SkillFile[],
  installedAt: number,
): Provenance {
  const { slug, owner, version } = resolved;
  const digest = createHash('sha256').update(archive).digest();
  const main = files.find(({ path }) => path === 'SKILL.md');
  const fingerprint = fingerprintOf(files);
  const ownerHandle = owner === undefined ? {} : { ownerHandle: owner };
  const tracked = {
    artifact: { kind: 'archive', sha256: digest.toString('hex'), integrity: `sha256-${digest.toString('base64')}` },
    ...(main ? { skillFile: { path: main.path, sha256: sha256(main.bytes) } } : {}),
    fileTreeSha256: treeDigestOf(files),
  };
  const origin = { version: 1, registry, slug, ...ownerHandle, installedVersion: version, installedAt, fingerprint, ...tracked };
  return {
    fingerprint,
    archiveSha256: digest.toString('hex'),
    origin: { path: '.clawhub/origin.json', bytes: Buffer.from(`${JSON.stringify(origin, null, 2)}\n`), executable: false },
    lock: { version, registry, installedAt, ...ownerHandle, ...tracked },
  };
}

/** As the registry's client counts it: every file but those below a name with a dot and `node_modules`, in the order of a locale. */
export function fingerprintOf(files: readonly SkillFile[]): string {
  const counted = files.filter(({ path }) => !path.split('/').some((part) => part.startsWith('.') || part === 'node_modules'));
  const { compare } = new Intl.Collator('en-US');
  const lines = counted
    .map(({ path, bytes }) => ({ path, digest: sha256(bytes) }))
    .toSorted((a, b) => compare(a.path, b.path))
    .map(({ path, digest }) => `${path}:${digest}`);
  return sha256(lines.join('\n'));
}

type TreeEntry = { path: string; type: 'directory' } | { path: string; type: 'file'; sha256: string };

/** As OpenClaw counts it: files and folders from the top down, each folder's entries in the order of their names. */
function treeDigestOf(files: readonly SkillFile[]): string {
  const names = (text: string): string[] => text.split('/');
  const entries = new Map<string, TreeEntry>();
  for (const { path, bytes } of files) {
    const parts = names(path);
    for (let depth = 1; depth < parts.length; depth += 1) {
      const folder = parts.slice(0, depth).join('/');
      entries.set(folder, { path: folder, type: 'directory' });
    }
    entries.set(path, { path, type: 'file', sha256: sha256(bytes) });
  }
  const sorted = [...entries.values()].toSorted((a, b) => compareParts(names(a.path), names(b.path)));
  return `sha256:${sha256(JSON.stringify(sorted))}`;
}

function compareParts(a: string[], b: string[]): number {
  for (const [index, part] of a.entries()) {
    const other = b[index];
    if (other === undefined) return 1;
    if (part !== other) return part < other ? -1 : 1;
  }
  return a.length - b.length;
}
