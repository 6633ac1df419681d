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
  return import('yazl');
}

/** What unpacks zip. */
export function loadZipReader(): Promise<typeof Yauzl> {
  return import('yauzl');
}
