import { createHash } from 'node:crypto';
import { packTar, type TarEntry } from 'modern-tar';

/** A package as Berth makes one: files alone, with their executable bits. */
export interface TestPackage {
  tar: Buffer;
  digest: string;
}

export async function packageOf(files: Record<string, string | { text: string; mode: number }>): Promise<TestPackage> {
  return packed(
    Object.entries(files).map(([name, file]) => {
      const { text, mode } = typeof file === 'string' ? { text: file, mode: 0o644 } : file;
      return { header: { name, size: Buffer.byteLength(text), mode, type: 'file', mtime: new Date(0) }, body: text };
    }),
  );
}

/** A tar of any entries, honest or not. */
export async function packed(entries: TarEntry[]): Promise<TestPackage> {
  return digested(Buffer.from(await packTar(entries)));
}

export function digested(tar: Buffer): TestPackage {
  return { tar, digest: createHash('sha256').update(tar).digest('hex') };
}

/** A skill of that package, as a config names it. */
export function skill(name: string, { digest }: TestPackage, more: object = {}): object {
  return { name, digest, description: `What ${name} is for.`, ...more };
}
