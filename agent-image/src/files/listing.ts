import type { BigIntStats } from 'node:fs';
import { etagOf } from './conditions.js';
import { FileError, systemCode } from './file-error.js';
import type { Folder } from './folder.js';

export interface Entry {
  /** From the workspace, whatever folder was listed. */
  path: string;
  kind: 'file' | 'folder' | 'link' | 'special';
  size: number;
  modified: string;
  etag?: string;
}

export interface ListOptions {
  /** The folder's own path, which stands before each entry's. */
  at: string[];
  recursive: boolean;
  limit: number;
  /** The last entry of the page before, as path parts below the folder. */
  after: string[];
}

const MOST_DEPTH = 100;
const PAUSE_EVERY = 1000;
/** What this process writes beside a file before it renames it; there for a moment only, unless it was killed in it. */
const PASSING = /^\.berth-\d+\.tmp$/;

export function kindOf(stat: BigIntStats): Entry['kind'] {
  if (stat.isFile()) return 'file';
  if (stat.isDirectory()) return 'folder';
  return stat.isSymbolicLink() ? 'link' : 'special';
}

export function entryOf(path: string, stat: BigIntStats): Entry {
  const kind = kindOf(stat);
  return {
    path,
    kind,
    size: kind === 'file' ? Number(stat.size) : 0,
    modified: stat.mtime.toISOString(),
    ...(kind === 'file' ? { etag: etagOf(stat) } : {}),
  };
}

/**
 * One page of a folder, in the order of names (a folder before what is in it). Pages go on after a name and not at a number, so that
 * files that come and go between two of them shift nothing. Memory holds a page, however large the folder is.
 */
export async function listPage(folder: Folder, options: ListOptions): Promise<{ entries: Entry[]; cursor: string | null }> {
  const page = new Page(options);
  await page.add(folder, [], options.after);
  const isLast = page.entries.length <= options.limit;
  const entries = page.entries.slice(0, options.limit);
  const last = entries.at(-1)?.path.split('/').slice(options.at.length);
  return { entries, cursor: isLast || !last ? null : cursorOf(last) };
}

class Page {
  readonly entries: Entry[] = [];
  readonly #options: ListOptions;

  constructor(options: ListOptions) {
    this.#options = options;
  }

  get #isFull(): boolean {
    return this.entries.length > this.#options.limit;
  }

  /** Takes what comes in `folder` after the given parts of a path. */
  async add(folder: Folder, at: string[], after: string[]): Promise<void> {
    const [first, ...deeper] = after;
    if (first !== undefined && this.#options.recursive) await this.#enter(folder, [...at, first], deeper);
    let last = first;
    while (!this.#isFull) {
      const names = await namesAfter(folder, last, this.#options.limit + 1);
      for (const name of names) {
        if (this.#isFull) return;
        await this.#take(folder, [...at, name]);
      }
      last = names.at(-1);
      if (names.length <= this.#options.limit) return;
    }
  }

  async #take(folder: Folder, path: string[]): Promise<void> {
    const stat = folder.stat(path.at(-1) as string);
    if (!stat) return; // Gone since its name was read.
    this.entries.push(entryOf([...this.#options.at, ...path].join('/'), stat));
    if (stat.isDirectory() && this.#options.recursive) await this.#enter(folder, path, []);
  }

  async #enter(parent: Folder, path: string[], after: string[]): Promise<void> {
    if (this.#isFull || path.length >= MOST_DEPTH) return;
    let folder: Folder;
    try {
      folder = parent.enter(path.at(-1) as string);
    } catch (error) {
      // No folder (any more), or one that is closed to us.
      if (['ENOENT', 'ENOTDIR', 'EACCES', 'ELOOP', 'ENAMETOOLONG'].includes(systemCode(error) ?? '')) return;
      throw error;
    }
    try {
      await this.add(folder, path, after);
    } finally {
      folder.close();
    }
  }
}

/** The first `count` names after one, in order. */
export async function namesAfter(folder: Folder, after: string | undefined, count: number): Promise<string[]> {
  let names: string[] = [];
  let seen = 0;
  for (const { name: bytes } of folder.entries()) {
    if (++seen % PAUSE_EVERY === 0) await new Promise(setImmediate);
    const name = nameOf(bytes);
    if (name === undefined || (after !== undefined && name <= after)) continue;
    names.push(name);
    // Sorted now and then, not at each name: twice the page at most is kept.
    if (names.length >= 2 * count + 100) names = firstOf(names, count);
  }
  return firstOf(names, count);
}

function firstOf(names: string[], count: number): string[] {
  return names.sort((a, b) => (a < b ? -1 : 1)).slice(0, count);
}

/** A name as a string; undefined for one that no string can say (it is no UTF-8), and for what is only there for a moment. */
export function nameOf(bytes: Buffer): string | undefined {
  const name = bytes.toString('utf8');
  if (name.includes('\ufffd') && !Buffer.from(name).equals(bytes)) return undefined;
  return PASSING.test(name) ? undefined : name;
}

function cursorOf(path: string[]): string {
  return Buffer.from(path.join('/')).toString('base64url');
}

/** The path that a cursor stands for; it is no more than a place in the order of names. */
export function readCursor(cursor: string): string[] {
  if (cursor === '') return [];
  const path = Buffer.from(cursor, 'base64url').toString('utf8').split('/');
  if (!/^[\w-]{1,6000}$/.test(cursor) || path.some((name) => name === '' || name === '.' || name === '..' || name.includes('\0')))
    throw new FileError('bad_request', 'cursor: is not one that a list gave');
  return path;
}
