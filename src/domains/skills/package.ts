import { createHash } from 'node:crypto';
import { packTar } from 'modern-tar';
import yazl from 'yazl';
import { readArchive } from './archive.js';
import type { SkillFile } from './intake.js';

/** A file of a package, without its bytes. */
export interface ListedFile {
  path: string;
  size: number;
  sha256: string;
  executable: boolean;
}

/** A version's files in the one form that the same files always have. */
export interface SkillPackage {
  tar: Buffer;
  /** SHA-256 of the tar, hex. */
  digest: string;
  files: ListedFile[];
}

const EPOCH = new Date(0);

/** The canonical tar: files alone, sorted by the bytes of their paths, without owners and times. */
export async function packageOf(files: readonly SkillFile[]): Promise<SkillPackage> {
  const sorted = files.toSorted((a, b) => Buffer.compare(Buffer.from(a.path), Buffer.from(b.path)));
  const entries = sorted.map(({ path, bytes, executable }) => ({
    header: {
      name: path,
      size: bytes.length,
      mode: executable ? 0o755 : 0o644,
      mtime: EPOCH,
      uid: 0,
      gid: 0,
      type: 'file' as const,
    },
    body: bytes,
  }));
  const tar = Buffer.from(await packTar(entries));
  return {
    tar,
    digest: sha256(tar),
    files: sorted.map(({ path, bytes, executable }) => ({ path, size: bytes.length, sha256: sha256(bytes), executable })),
  };
}

/** What a package was made of. Its own `.clawhub` is left aside, as it is in everything that is read. */
export function unpacked(tar: Buffer): Promise<SkillFile[]> {
  return readArchive(tar, 'tar');
}

/** The same files as a zip, in a folder of the skill's name. */
export async function zipOf(name: string, files: readonly SkillFile[]): Promise<Buffer> {
  const zip = new yazl.ZipFile();
  for (const { path, bytes, executable } of files) {
    zip.addBuffer(bytes, `${name}/${path}`, { mtime: new Date(1980, 0, 1), mode: executable ? 0o100755 : 0o100644 });
  }
  zip.end();
  const chunks: Buffer[] = [];
  for await (const chunk of zip.outputStream) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

export function sha256(bytes: Buffer | string): string {
  return createHash('sha256').update(bytes).digest('hex');
}
