import { closeSync, fchmodSync, futimesSync } from 'node:fs';
import { checkRelativePath } from '../paths.js';
import { FileError, systemCode } from './file-error.js';
import type { Folder } from './folder.js';
import { FileSink } from './receiving.js';
import type { Allowance } from './usage.js';

/** One thing of an archive, before anything of it is believed. */
export interface ArchiveEntry {
  name: string;
  kind: 'file' | 'folder' | 'link';
  mode: number;
  modified: Date | undefined;
  /** What a link stands for. */
  target?: string;
}

export interface StageLimits {
  entries: number;
  /** Of all files together, unpacked. */
  bytes: number | undefined;
  /** Which links are taken; without it an archive with links is refused. */
  links?: (path: string, target: string) => boolean;
}

const MOST_DEPTH = 90;

/** Where an archive is unpacked, out of sight, until it is known to be sound to its end. */
export class Stage {
  readonly #folder: Folder;
  readonly #allowance: Allowance;
  readonly #limits: StageLimits;
  /** How many bytes are freed by the file of that path being replaced. */
  readonly #replaces: (path: string[]) => number;
  readonly #sink: FileSink;
  #entries = 0;
  files = 0;
  bytes = 0;

  constructor(folder: Folder, options: { allowance: Allowance; limits: StageLimits; replaces?: (path: string[]) => number }) {
    this.#folder = folder;
    this.#allowance = options.allowance;
    this.#sink = new FileSink(options.allowance);
    this.#limits = options.limits;
    this.#replaces = options.replaces ?? (() => 0);
  }

  /** Takes an entry, with a file's bytes. Throws where it is not what an archive may hold here. */
  async add(entry: ArchiveEntry, bytes: AsyncIterable<Uint8Array> | undefined): Promise<void> {
    this.#count();
    const path = pathOf(entry);
    const name = path.pop();
    if (name === undefined) return; // The folder itself, which some programs list too.
    try {
      const parent = this.#parent(path);
      try {
        if (entry.kind === 'folder') this.#addFolder(parent, name);
        else if (entry.kind === 'link') this.#addLink(parent, name, [...path, name].join('/'), entry.target ?? '');
        else await this.#addFile(parent, name, entry, bytes, [...path, name]);
      } finally {
        parent.close();
      }
    } catch (error) {
      throw ['EEXIST', 'ENOTDIR', 'EISDIR', 'ELOOP'].includes(systemCode(error) ?? '')
        ? bad('has two entries of one name')
        : error;
    }
  }

  #count(): void {
    if (++this.#entries > this.#limits.entries)
      throw new FileError('too_many', `An archive has at most ${this.#limits.entries} files and folders.`);
  }

  #parent(path: string[]): Folder {
    let at = this.#folder.again();
    for (const name of path) {
      const parent = at;
      try {
        if (parent.makeFolder(name)) this.#count();
        at = parent.enter(name);
      } finally {
        parent.close();
      }
    }
    return at;
  }

  #addFolder(parent: Folder, name: string): void {
    if (!parent.makeFolder(name)) parent.enter(name).close();
  }

  #addLink(parent: Folder, name: string, path: string, target: string): void {
    if (!this.#limits.links) throw bad('has links');
    if (this.#limits.links(path, target)) parent.makeLink(name, target);
  }

  async #addFile(
    parent: Folder,
    name: string,
    { mode, modified }: ArchiveEntry,
    bytes: AsyncIterable<Uint8Array> | undefined,
    path: string[],
  ): Promise<void> {
    const fd = parent.openNewNow(name);
    try {
      this.#allowance.willFree(this.#replaces(path));
      const sink = this.#sink.begin(fd);
      for await (const piece of bytes ?? []) {
        this.#countBytes(piece.length);
        await sink.write(piece);
      }
      await sink.flush();
      // Owners, and what would give a program more rights than whoever runs it has, are not kept.
      fchmodSync(fd, (mode & 0o100) === 0 ? 0o644 : 0o755);
      if (modified && modified.getTime() >= 0 && modified.getTime() <= Date.now()) futimesSync(fd, new Date(), modified);
      this.files += 1;
    } finally {
      closeSync(fd);
    }
  }

  #countBytes(bytes: number): void {
    this.bytes += bytes;
    if (this.#limits.bytes !== undefined && this.bytes > this.#limits.bytes)
      throw new FileError('too_large', `The archive holds more than ${this.#limits.bytes} bytes.`, {
        fields: { limit: this.#limits.bytes },
      });
  }
}

/** An entry's place within the archive's folder. Throws on every name that could be meant to be elsewhere. */
function pathOf({ name, kind }: ArchiveEntry): string[] {
  let path = name.startsWith('./') ? name.slice(2) : name;
  if (kind === 'folder') path = path.replace(/\/$/, '');
  if (path === '' || path === '.') {
    if (kind === 'folder') return [];
    throw bad('has a file without a name');
  }
  const segments = path.split('/');
  if (checkRelativePath(path) !== undefined || segments.includes('') || segments.includes('.'))
    throw bad('has a name that is not a plain path within it');
  if (path.includes('\\')) throw bad('has a name with a backslash');
  if (/\ufffd|\p{Surrogate}/u.test(path)) throw bad('has a name that is not UTF-8');
  if (segments.length > MOST_DEPTH) throw bad('has folders that are too deep');
  return segments;
}

/** An error that says what is wrong with an archive; never with a name of it, which is not ours to repeat. */
export function bad(what: string): FileError {
  return new FileError('bad_archive', `The archive ${what}.`);
}
