import { AppError } from '../../lib/errors.js';
import { isLeftAside, pathFault, shownName, withoutDot } from './entry-path.js';

/** One file of a skill. */
export interface SkillFile {
  path: string;
  bytes: Buffer;
  executable: boolean;
}

/** What a skill may be, unpacked. */
export const SKILL_LIMITS = {
  unpackedBytes: 20_000_000,
  files: 1_000,
  /** Folders and what is left aside included. */
  entries: 4_000,
  skillFileBytes: 256 * 1024,
};

/** Takes the entries of an archive as they come and refuses, by name, what has no place in a skill: nothing is believed that was not counted. */
export class Intake {
  readonly #files = new Map<string, SkillFile>();
  readonly #folders = new Set<string>();
  #bytes = 0;
  #entries = 0;

  /** The path of a file that is to be read, or undefined for what is left aside. */
  begin(rawName: string, declaredBytes: number): string | undefined {
    this.#entries += 1;
    if (this.#entries > SKILL_LIMITS.entries) throw tooMuch(`the archive has more than ${SKILL_LIMITS.entries} entries`);
    const name = withoutDot(rawName);
    if (name === '' && rawName !== '') return undefined;
    const fault = pathFault(name);
    if (fault) throw entryFault(rawName, fault);
    const path = name.replace(/\/$/, '');
    if (isLeftAside(path)) return undefined;
    if (name.endsWith('/')) {
      this.#folder(path, rawName);
      return undefined;
    }
    this.#checkFree(path, rawName);
    if (declaredBytes > SKILL_LIMITS.unpackedBytes - this.#bytes) throw tooLarge();
    return path;
  }

  /** To be called with every piece that was unpacked, whatever had been declared. */
  count(bytes: number): void {
    this.#bytes += bytes;
    if (this.#bytes > SKILL_LIMITS.unpackedBytes) throw tooLarge();
  }

  add(path: string, bytes: Buffer, executable: boolean): void {
    if (this.#files.size >= SKILL_LIMITS.files) throw tooMuch(`the archive has more than ${SKILL_LIMITS.files} files`);
    for (let at = path.indexOf('/'); at !== -1; at = path.indexOf('/', at + 1)) this.#folder(path.slice(0, at), path);
    this.#files.set(path, { path, bytes, executable: executable || bytes.subarray(0, 2).toString('latin1') === '#!' });
  }

  /** All files, from the folder that has the SKILL.md: the root, or the one folder that everything is in. */
  finish(): SkillFile[] {
    const files = [...this.#files.values()];
    if (files.length === 0) throw new AppError('invalid_request', 'the archive has no files');
    if (this.#files.has('SKILL.md')) return files;
    const [folder = ''] = files[0]!.path.split('/');
    const isWrapped = files.every(({ path }) => path.startsWith(`${folder}/`));
    if (isWrapped && this.#files.has(`${folder}/SKILL.md`)) {
      return files.map((file) => ({ ...file, path: file.path.slice(folder.length + 1) }));
    }
    throw new AppError('invalid_request', 'the archive has no SKILL.md', {
      fields: [{ path: 'SKILL.md', message: 'must be at the root of the archive, or in the one folder that everything is in' }],
    });
  }

  #checkFree(path: string, rawName: string): void {
    if (this.#files.has(path)) throw entryFault(rawName, 'is there twice');
    if (this.#folders.has(path)) throw entryFault(rawName, 'is a file and a folder');
  }

  #folder(path: string, rawName: string): void {
    if (this.#files.has(path)) throw entryFault(rawName, 'is a file and a folder');
    this.#folders.add(path);
  }
}

/** Refuses an archive for one of its entries. */
export function entryFault(name: string, message: string): AppError {
  return new AppError('invalid_request', 'the archive cannot be taken', { fields: [{ path: shownName(name), message }] });
}

export function archiveFault(message: string, cause?: unknown): AppError {
  return new AppError('invalid_request', 'the archive cannot be read', {
    cause,
    fields: [{ path: 'body', message }],
  });
}

function tooLarge(): AppError {
  return new AppError('payload_too_large', `the archive is larger than ${SKILL_LIMITS.unpackedBytes} bytes when unpacked`);
}

function tooMuch(message: string): AppError {
  return new AppError('payload_too_large', message);
}
