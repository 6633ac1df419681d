import { closeSync, constants, existsSync, fstatSync, lstatSync, mkdirSync, openSync, readSync } from 'node:fs';
import { mkdir, readFile, rename, rm, unlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
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

/**
 * The folder that an agent works in, and the files of it that Berth owns. The agent may change those too, but the next turn puts
 * them back; everything else in the folder is the agent's own.
 */
export class Workspace {
  readonly dir: string;
  readonly home: string;
  readonly #log: Log;
  #owned: Map<string, string> = new Map();

  constructor(dir: string, home: string, log: Log) {
    this.dir = dir;
    this.home = home;
    this.#log = log;
  }

  /** Makes the folder, takes over the files Berth owns now and removes those of `ownedBefore` it owns no more. */
  async own(files: Map<string, string>, ownedBefore: Iterable<string>): Promise<void> {
    await mkdir(this.dir, { recursive: true });
    await mkdir(this.home, { recursive: true });
    for (const path of ownedBefore) if (!files.has(path)) await this.#remove(path);
    this.#owned = files;
    for (const [path, text] of files) await this.#write(path, text);
  }

  /** Puts back what the agent changed of Berth's files, and the folder itself. */
  async restore(): Promise<void> {
    if (!existsSync(this.dir)) mkdirSync(this.dir, { recursive: true });
    for (const [path, text] of this.#owned)
      if (readText(join(this.dir, path), text.length * 4 + 4)?.text !== text) await this.#write(path, text);
  }

  /** The prompt files that exist, each and all of them together within their caps. */
  promptFiles(): PromptFile[] {
    const files: PromptFile[] = [];
    let room = MOST_CHARS_IN_ALL;
    for (const path of PROMPT_FILES) {
      const read = this.#read(path);
      if (read === undefined || read.text.trim() === '') continue;
      const text = read.text.slice(0, Math.min(MOST_CHARS_A_FILE, room));
      room -= text.length;
      files.push(text.length < read.length ? { path, text, cutFrom: read.length } : { path, text });
    }
    return files;
  }

  #read(path: string): { text: string; length: number } | undefined {
    const owned = this.#owned.get(path);
    if (owned !== undefined) return { text: owned, length: owned.length };
    return readText(join(this.dir, path), MOST_CHARS_A_FILE * 4);
  }

  async #write(path: string, text: string): Promise<void> {
    const target = join(this.dir, path);
    const made = join(dirname(target), `.berth-${process.pid}.tmp`);
    try {
      await mkdir(dirname(target), { recursive: true });
      await rm(made, { force: true });
      // By rename, so that a link or a pipe that a shell put there is replaced and never written through.
      await writeFile(made, text, { flag: 'wx' });
      await rename(made, target);
    } catch (error) {
      // The prompt is made from memory, so a full disk or a folder in the file's place does not stop the agent.
      this.#log.warn('workspace file not written', { file: path, code: errorCode(error) });
      await rm(made, { force: true }).catch(() => undefined);
    }
  }

  async #remove(path: string): Promise<void> {
    await unlink(join(this.dir, path)).catch(() => undefined);
  }
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

/** What is known of an agent that was here before: written beside its conversations, outside its workspace. */
export interface Marker {
  incarnation: string;
  owned: string[];
}

export async function readMarker(path: string): Promise<Marker | undefined> {
  try {
    const marker = JSON.parse(await readFile(path, 'utf8')) as Partial<Marker>;
    if (typeof marker.incarnation !== 'string' || !Array.isArray(marker.owned)) return undefined;
    return { incarnation: marker.incarnation, owned: marker.owned.filter((name) => typeof name === 'string') };
  } catch {
    return undefined;
  }
}

export async function writeMarker(path: string, marker: Marker): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(`${path}.tmp`, JSON.stringify(marker));
  await rename(`${path}.tmp`, path);
}
