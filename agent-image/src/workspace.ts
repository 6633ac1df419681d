import { randomUUID } from 'node:crypto';
import { closeSync, constants, existsSync, fstatSync, lstatSync, openSync, readSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { Folder, within } from './files/folder.js';
import { errorCode, type Log } from './log.js';

/** Files whose text is part of every prompt, in this order. */
export const PROMPT_FILES = ['AGENTS.md', 'SOUL.md', 'IDENTITY.md', 'USER.md', 'MEMORY.md'] as const;
const MOST_CHARS_A_FILE = 20_000;
const MOST_CHARS_IN_ALL = 60_000;

/** A workspace file as it goes into the prompt. */
export interface PromptFile {
  path: string;
  text: string;
  /** How long it really is, where `text` is only its beginning. */
  cutFrom?: number;
}

/** What stands for the day of a turn in a file that Berth owns. */
const DATE = /\{\{\s*date\s*\}\}/g;

/**
 * The folder that an agent works in, and the files of it that Berth owns. The agent may change those too, but the next turn puts
 * them back; everything else in the folder is the agent's own.
 */
export class Workspace {
  readonly dir: string;
  readonly home: string;
  readonly #log: Log;
  #owned: ReadonlyMap<string, string> = new Map();
  /** The owned files as they are on `#day`. */
  #onDay: ReadonlyMap<string, string> = new Map();
  #day = '';

  constructor(dir: string, home: string, log: Log) {
    this.dir = dir;
    this.home = home;
    this.#log = log;
  }

  /** Makes the folders where they are missing, or where something else stands in their place. */
  async make(): Promise<void> {
    await Promise.all([mkdir(dirname(this.dir), { recursive: true }), mkdir(this.home, { recursive: true })]);
    this.open().close();
  }

  /** Takes over the files Berth owns now and removes those of `ownedBefore` it owns no more. */
  async own(
    { files, seeds }: { files: ReadonlyMap<string, string>; seeds: ReadonlyMap<string, string> },
    ownedBefore: Iterable<string>,
    today: string,
  ): Promise<void> {
    for (const path of ownedBefore) if (!files.has(path) && !seeds.has(path)) this.#remove(path);
    this.#owned = files;
    this.#day = '';
    const seeded = [...seeds].filter(([path]) => !files.has(path));
    await Promise.all([
      this.#putBack(today),
      ...seeded.map(([path, text]) => this.#write(path, text.replaceAll(DATE, today), 'only-new')),
    ]);
  }

  /** Puts back what the agent changed of Berth's files, and the folder itself. */
  async restore(today: string): Promise<void> {
    if (!existsSync(this.dir)) await this.make();
    await this.#putBack(today);
  }

  /** Writes those of Berth's files that are not there as they are to be. */
  async #putBack(today: string): Promise<void> {
    const other = [...this.#filesOn(today)].filter(
      ([path, text]) => readText(join(this.dir, path), text.length * 4 + 4)?.text !== text,
    );
    await Promise.all(other.map(([path, text]) => this.#write(path, text, 'replace')));
  }

  /** The prompt files that exist, each and all of them together within their caps. */
  promptFiles(today: string): PromptFile[] {
    const owned = this.#filesOn(today);
    const files: PromptFile[] = [];
    let room = MOST_CHARS_IN_ALL;
    for (const path of PROMPT_FILES) {
      const read = withLength(owned.get(path)) ?? readText(join(this.dir, path), MOST_CHARS_A_FILE * 4);
      if (read === undefined || read.text.trim() === '') continue;
      const text = read.text.slice(0, Math.min(MOST_CHARS_A_FILE, room));
      room -= text.length;
      files.push(text.length < read.length ? { path, text, cutFrom: read.length } : { path, text });
    }
    return files;
  }

  /** Opens the folder itself. It is made where it is missing or where something else stands in its place. */
  open(): Folder {
    const parent = Folder.open(dirname(this.dir));
    try {
      return enterOrReplace(parent, basename(this.dir));
    } finally {
      parent.close();
    }
  }

  #filesOn(today: string): ReadonlyMap<string, string> {
    if (this.#day !== today) {
      this.#onDay = new Map([...this.#owned].map(([path, text]) => [path, text.replaceAll(DATE, today)]));
      this.#day = today;
    }
    return this.#onDay;
  }

  async #write(path: string, text: string, mode: 'replace' | 'only-new'): Promise<void> {
    try {
      const { folder, name } = this.#placeOf(path, enterOrReplace);
      await within(folder, () => writeByRename(folder, name, text, mode));
    } catch (error) {
      // The prompt is made from memory, so a full disk or a folder in the file's place does not stop the agent.
      this.#log.warn('workspace file not written', { file: path, code: errorCode(error) });
    }
  }

  #remove(path: string): void {
    try {
      const { folder, name } = this.#placeOf(path, enterToWrite);
      try {
        folder.removeFile(name);
      } finally {
        folder.close();
      }
    } catch (error) {
      // Where the agent has moved it or put something else there, nothing of Berth's is left to remove.
      if (!GONE.has(errorCode(error))) this.#log.warn('workspace file not removed', { file: path, code: errorCode(error) });
    }
  }

  /** The folder that a file of Berth's belongs into, and its name there. */
  #placeOf(path: string, enter: (parent: Folder, name: string) => Folder): { folder: Folder; name: string } {
    const segments = path.split('/').filter((segment) => segment !== '' && segment !== '.');
    const name = segments.pop() ?? '';
    let folder = this.open();
    for (const segment of segments) {
      const above = folder;
      try {
        folder = enter(above, segment);
      } finally {
        above.close();
      }
    }
    return { folder, name };
  }
}

const GONE = new Set(['ENOENT', 'ENOTDIR', 'ELOOP', 'EISDIR']);

/**
 * Opens a folder for Berth to write into, made where it is not. A link, or whatever else an agent has put there, goes: following it
 * would let the agent choose where Berth writes.
 */
export function enterOrReplace(parent: Folder, name: string): Folder {
  try {
    parent.makeFolder(name);
    return enterToWrite(parent, name);
  } catch (error) {
    const code = errorCode(error);
    if (code !== 'ENOTDIR' && code !== 'ELOOP') throw error;
    parent.removeFile(name);
    parent.makeFolder(name);
    return parent.enter(name);
  }
}

/** Opens a folder whose entries can be changed, also where the agent has taken that right away from itself. */
export function enterToWrite(parent: Folder, name: string): Folder {
  const mode = Number(parent.stat(name)?.mode ?? 0o700);
  if ((mode & 0o700) !== 0o700) parent.unlockFolder(name);
  return parent.enter(name);
}

/** By rename, so that a link or a pipe that a shell put there is replaced and never written through. */
export async function writeByRename(folder: Folder, name: string, text: string, mode: 'replace' | 'only-new'): Promise<void> {
  if (mode === 'only-new' && folder.stat(name)) return;
  const made = `.berth-${randomUUID()}.tmp`;
  const file = await folder.openNew(made);
  try {
    await file.writeFile(text);
    await file.chmod(0o644);
    if (mode === 'replace') folder.move(made, folder, name);
    else folder.moveFileToNew(made, folder, name);
  } catch (error) {
    folder.removeFile(made);
    if (mode === 'replace' || errorCode(error) !== 'EEXIST') throw error;
  } finally {
    await file.close();
  }
}

function withLength(text: string | undefined): { text: string; length: number } | undefined {
  return text === undefined ? undefined : { text, length: text.length };
}

/** A regular file's text, at most `mostBytes` of it, and its length. Sync: it is a few microseconds at the head of every turn. */
function readText(path: string, mostBytes: number): { text: string; length: number } | undefined {
  // Most of the files are not there, and a failed open costs more than all the rest.
  if (!lstatSync(path, { throwIfNoEntry: false })?.isFile()) return undefined;
  let fd: number;
  try {
    // A shell could have put a pipe or a link in its place: never wait on one, never follow one.
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch {
    return undefined;
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) return undefined;
    const buffer = Buffer.allocUnsafe(Math.min(stat.size, mostBytes));
    const text = buffer.toString('utf8', 0, readSync(fd, buffer, 0, buffer.length, 0));
    return { text, length: stat.size > mostBytes ? stat.size : text.length };
  } catch {
    return undefined;
  } finally {
    closeSync(fd);
  }
}
