import { checkRelativePath } from '../paths.js';
import { FileError, systemCode } from './file-error.js';
import type { Folder } from './folder.js';

/** An entry that is, or could be, in a folder; `.` where the path means the folder itself. Whoever got it closes the folder. */
export interface Place {
  folder: Folder;
  name: string;
}

export interface WalkOptions {
  /** Whether a link at the path's end is what it stands for (to read, to write), or the link itself (to delete, to move). */
  last: 'followed' | 'itself';
  /** Makes the folders on the way that are not there. */
  make?: boolean;
}

/** Deeper than any path that is asked for by name; links can add to a path. */
const MOST_DEPTH = 200;
const MOST_LINKS = 40;

/** A path's parts, or an error that says what is wrong with it. `''` is the workspace itself. */
export function segmentsOf(path: string, what = 'path'): string[] {
  if (path === '' || path === '.') return [];
  const trimmed = path.endsWith('/') && !path.endsWith('//') ? path.slice(0, -1) : path;
  const segments = trimmed.split('/');
  const wrong =
    checkRelativePath(trimmed) ??
    (segments.some((segment) => segment === '' || segment === '.') ? 'must not hold empty parts or "."' : undefined) ??
    (/\p{Surrogate}/u.test(trimmed) ? 'must be Unicode' : undefined);
  if (wrong) throw new FileError('bad_path', `${what}: ${wrong}`);
  return segments;
}

/**
 * Walks from `root` to where a path leads. Links on the way are followed by hand, one after the other, and only within `root`: what
 * the kernel is asked to open is never a link, so that nobody can slip one in between the look and the step.
 */
export function walk(root: Folder, segments: string[], options: WalkOptions): Place {
  const trail = [root.again()];
  const pending = [...segments].reverse();
  let links = 0;
  try {
    for (;;) {
      const here = trail.at(-1) as Folder;
      const name = pending.pop();
      if (name === undefined) return { folder: trail.pop() as Folder, name: '.' };
      if (name === '' || name === '.') continue;
      if (name === '..') {
        leave(trail);
        continue;
      }
      const isLast = pending.length === 0;
      if ((!isLast || options.last === 'followed') && here.stat(name)?.isSymbolicLink()) {
        if (++links > MOST_LINKS) throw new FileError('bad_path', 'The path leads through too many links.');
        follow(here.targetOf(name), root, trail, pending);
        continue;
      }
      if (isLast) return { folder: trail.pop() as Folder, name };
      if (trail.length >= MOST_DEPTH) throw new FileError('bad_path', 'The path is too deep.');
      trail.push(options.make ? here.enterOrMake(name) : here.enter(name));
    }
  } finally {
    for (const folder of trail) folder.close();
  }
}

/** The folder at the end of a path. */
export function walkToFolder(root: Folder, segments: string[], options: { make?: boolean } = {}): Folder {
  const { folder, name } = walk(root, segments, { last: 'followed', ...options });
  try {
    return options.make ? folder.enterOrMake(name) : folder.enter(name);
  } finally {
    folder.close();
  }
}

/** Where a path leads, or undefined where a folder on the way is missing. */
export function walkIfThere(root: Folder, segments: string[], options: WalkOptions): Place | undefined {
  try {
    return walk(root, segments, options);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

function leave(trail: Folder[]): void {
  if (trail.length === 1) throw outside();
  trail.pop()?.close();
}

/** Puts a link's parts in front of what is left of the path. An absolute one starts at the root again, if it names it. */
function follow(target: string, root: Folder, trail: Folder[], pending: string[]): void {
  let rest = target;
  if (target.startsWith('/')) {
    const home = root.realPath;
    if (target !== home && !target.startsWith(`${home}/`)) throw outside();
    rest = target.slice(home.length);
    while (trail.length > 1) leave(trail);
  }
  pending.push(...rest.split('/').reverse());
}

function outside(): FileError {
  return new FileError('bad_path', 'The path leads out of the workspace.');
}
