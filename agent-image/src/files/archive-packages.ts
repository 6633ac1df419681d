import { createRequire } from 'node:module';
import type * as ModernTar from 'modern-tar';
import type * as Yauzl from 'yauzl';
import type * as Yazl from 'yazl';

// The archive packages are loaded when the first archive comes: an idle gateway does without them.

/** What packs and unpacks tar. */
export function loadTar(): Promise<typeof ModernTar> {
  return import('modern-tar');
}

/** What packs zip. */
export function loadZipWriter(): Promise<typeof Yazl> {
  return withRequire(() => import('yazl'));
}

/** What unpacks zip. */
export function loadZipReader(): Promise<typeof Yauzl> {
  return withRequire(() => import('yauzl'));
}

/** Both are CommonJS and ask for parts of Node by `require`, which a bundle that is an ES module does not have. */
async function withRequire<T>(load: () => Promise<T>): Promise<T> {
  const global = globalThis as { require?: NodeJS.Require };
  global.require ??= createRequire(import.meta.url);
  return load();
}
