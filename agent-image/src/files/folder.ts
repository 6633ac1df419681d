import {
  chmodSync,
  closeSync,
  constants,
  fchmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  opendirSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  symlinkSync,
  unlinkSync,
  type BigIntStats,
  type Dirent,
} from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { systemCode } from './file-error.js';

/** The name of an entry: bytes where it may be one that is no UTF-8, which no string can say. */
export type Name = string | Buffer;

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_RDWR } = constants;
const NEW = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW;

/**
 * An open folder. What it does, it does to its own entries by their names and through its descriptor (`/proc/self/fd/<n>/<name>`,
 * the nearest to openat that there is): whoever moves the folder or puts a link in its place meanwhile cannot lead a call
 * elsewhere. No call follows a link that a name stands for. The calls are synchronous: each is a few microseconds, and nothing
 * of this process gets in between two of them.
 */
export class Folder {
  readonly fd: number;
  #isOpen = true;

  private constructor(fd: number) {
    this.fd = fd;
  }

  /** Opens a path that nobody but the operator has chosen. */
  static open(path: string): Folder {
    return new Folder(openSync(path, O_RDONLY | O_DIRECTORY));
  }

  /** Where it is now, as the kernel says. */
  get realPath(): string {
    return readlinkSync(`/proc/self/fd/${this.fd}`);
  }

  /** Another descriptor of the same folder. */
  again(): Folder {
    return this.enter('.');
  }

  /** Opens a folder in it. ENOTDIR for a link, wherever it leads. */
  enter(name: Name): Folder {
    return new Folder(openSync(this.#at(name), O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  }

  /** Opens a folder in it, made where there is nothing of that name. */
  enterOrMake(name: string): Folder {
    try {
      return this.enter(name);
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw error;
    }
    this.makeFolder(name);
    return this.enter(name);
  }

  stat(name: Name): BigIntStats | undefined {
    return lstatSync(this.#at(name), { bigint: true, throwIfNoEntry: false });
  }

  targetOf(link: Name): string {
    return readlinkSync(this.#at(link), 'utf8');
  }

  /** Never waits on a pipe. The caller looks at what it has got: it may be anything but a link. */
  openToRead(name: Name): Promise<FileHandle> {
    return open(this.#at(name), O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  }

  /** A file that is not there yet. It can be read back too. */
  openNew(name: string): Promise<FileHandle> {
    return open(this.#at(name), NEW, 0o600);
  }

  /** The same at once, for whoever makes many. */
  openNewNow(name: string): number {
    return openSync(this.#at(name), NEW, 0o600);
  }

  /** Says whether it was not there before. */
  makeFolder(name: string): boolean {
    try {
      mkdirSync(this.#at(name));
      return true;
    } catch (error) {
      if (systemCode(error) !== 'EEXIST') throw error;
      return false;
    }
  }

  /** Moves an entry to where it replaces what a rename replaces: a file a file, a folder an empty folder. */
  move(name: Name, to: Folder, newName: Name): void {
    renameSync(this.#at(name), to.#at(newName));
  }

  /** Gives an entry that is no folder a second name. */
  link(name: Name, to: Folder, newName: Name): void {
    linkSync(this.#at(name), to.#at(newName));
  }

  /** Moves a file to where nothing is yet. EEXIST otherwise, whoever was quicker. */
  moveFileToNew(name: Name, to: Folder, newName: Name): void {
    this.link(name, to, newName);
    unlinkSync(this.#at(name));
  }

  /** Lets its owner change its entries, whatever its permissions said. */
  unlock(): void {
    fchmodSync(this.fd, 0o700);
  }

  /** The same for a folder in it. */
  unlockFolder(name: Name): void {
    if (this.stat(name)?.isDirectory()) chmodSync(this.#at(name), 0o700);
  }

  makeLink(name: string, target: string): void {
    symlinkSync(target, this.#at(name));
  }

  removeFile(name: Name): void {
    unlinkSync(this.#at(name));
  }

  removeEmptyFolder(name: Name): void {
    rmdirSync(this.#at(name));
  }

  /** Its entries in the folder's own order, a few hundred at a time in memory. */
  *entries(): Generator<Dirent<Buffer>> {
    const options = { encoding: 'buffer' as BufferEncoding, bufferSize: 256 };
    const dir = opendirSync(`/proc/self/fd/${this.fd}`, options);
    try {
      for (let entry = dir.readSync(); entry; entry = dir.readSync()) yield entry as unknown as Dirent<Buffer>;
    } finally {
      dir.closeSync();
    }
  }

  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    closeSync(this.fd);
  }

  #at(name: Name): string | Buffer {
    const here = `/proc/self/fd/${this.fd}/`;
    return typeof name === 'string' ? here + name : Buffer.concat([Buffer.from(here), name]);
  }
}

/** Runs `work` with a folder that is closed when it has ended. */
export async function within<T>(folder: Folder, work: (folder: Folder) => T | Promise<T>): Promise<T> {
  try {
    return await work(folder);
  } finally {
    folder.close();
  }
}
