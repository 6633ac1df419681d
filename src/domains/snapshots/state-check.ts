import { posix } from 'node:path';
import { createTarDecoder, type ParsedTarEntry, type TarHeader } from 'modern-tar';
import { AppError } from '../../lib/errors.js';

const PARTS = new Set(['workspace', 'home', 'conversations']);
const MOST_ENTRIES = 1_000_000;
const MOST_DEPTH = 90;

/**
 * Looks through the tar of a state as it passes by: it must be one to its end, and hold regular files, folders and links within their part, and
 * nothing else. What unpacks it looks again; this tells whoever sends it at once.
 */
export class StateCheck {
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #reading: Promise<void>;
  #entries = 0;
  files = 0;

  constructor() {
    const { readable, writable } = createTarDecoder({ strict: true });
    this.#writer = writable.getWriter();
    this.#writer.closed.catch(() => undefined);
    this.#reading = this.#read(readable);
    // Whoever writes or finishes is told; until then a failure must not end the process.
    this.#reading.catch((error: unknown) => this.#writer.abort(error).catch(() => undefined));
  }

  /** Throws `unprocessable` for what is no such tar. The bytes are the caller's again when this is done. */
  async add(bytes: Uint8Array): Promise<void> {
    try {
      // A copy: the decoder may hold on to what it is given.
      await this.#writer.write(Uint8Array.prototype.slice.call(bytes));
    } catch {
      await this.#reading;
      throw fault('is damaged');
    }
  }

  async finish(): Promise<void> {
    await this.#writer.close().catch(() => undefined);
    await this.#reading;
  }

  /** Gives it up. */
  async stop(): Promise<void> {
    await this.#writer.abort(new Error('given up')).catch(() => undefined);
    await this.#reading.catch(() => undefined);
  }

  async #read(entries: AsyncIterable<ParsedTarEntry>): Promise<void> {
    try {
      for await (const { header, body } of entries) {
        checkEntry(header);
        if (++this.#entries > MOST_ENTRIES) throw fault(`has more than ${MOST_ENTRIES} files and folders`);
        if (header.type === 'file') this.files += 1;
        for await (const _ of body as unknown as AsyncIterable<Uint8Array>) {
          // What files say is the agent's business.
        }
      }
    } catch (error) {
      throw error instanceof AppError ? error : fault('is no tar, is damaged or ends too early', error);
    }
  }
}

function checkEntry({ name, type = 'file', linkname = '', pax }: TarHeader): void {
  if (type === 'link') throw fault('has hard links');
  if (type !== 'file' && type !== 'directory' && type !== 'symlink') throw fault('has devices or the like');
  if (Object.keys(pax ?? {}).some((key) => key.startsWith('GNU.sparse'))) throw fault('has files with holes');
  const path = type === 'directory' ? name.replace(/\/$/, '') : name;
  const segments = path.split('/');
  const isPlain = !segments.some((segment) => segment === '' || segment === '.' || segment === '..') && !/[\0\\]/.test(path);
  if (!isPlain || segments.length > MOST_DEPTH) throw fault('has a name that is not a plain path within it');
  if (!PARTS.has(segments[0] ?? '')) throw fault('has something else than workspace, home and conversations');
  if (segments.length === 1 && type !== 'directory') throw fault('has something else than folders at its top');
  if (type === 'symlink' && !staysWithin(path, linkname)) throw fault('has a link that leads out of it');
}

function staysWithin(path: string, target: string): boolean {
  if (target === '' || target.startsWith('/') || target.includes('\0')) return false;
  const to = posix.normalize(posix.join(posix.dirname(path), target));
  const [part = ''] = path.split('/');
  return to === part || to.startsWith(`${part}/`);
}

/** Never with a name of the archive, which is not ours to repeat. */
function fault(what: string, cause?: unknown): AppError {
  return new AppError('unprocessable', `the state ${what}`, { cause });
}
