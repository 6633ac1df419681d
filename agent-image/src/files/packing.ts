import { once } from 'node:events';
import { Readable } from 'node:stream';
import type { TarHeader } from 'modern-tar';
import type { ZipFile } from 'yazl';
import { loadTar, loadZipWriter } from './archive-packages.js';
import { FileError } from './file-error.js';
import type { Folder } from './folder.js';
import { openRegular, readPart } from './reading.js';
import { entriesBelow, type TreeEntry } from './tree.js';

export type ArchiveFormat = 'tar' | 'zip';

/** Takes an archive's bytes as fast as its reader does. */
export type Send = (piece: Uint8Array) => Promise<void>;

/** A folder and what its entries' names begin with in the archive. */
export interface Packed {
  folder: Folder;
  prefix: string;
}

const MOST_ZIPPED = 20_000;
/** From here on a zip entry needs the wide form; said before its size is known for sure, so with room to grow. */
const LARGE_BYTES = 0xf0000000;
const PADDING = Buffer.alloc(64 * 1024);

/**
 * Packs folders as tar. Regular files and folders go in, with the permissions to run, without owners; `links` says which links do
 * too, by their path and target. A file that grows is cut at the size it had, one that shrinks is filled up with zeros: its size is
 * said before its bytes.
 */
export async function packTar(
  trees: Packed[],
  send: Send,
  links: (path: string, target: string) => boolean = () => false,
): Promise<void> {
  const { createTarPacker } = await loadTar();
  const { readable, controller } = createTarPacker();
  const handedOn = new HandedOn();
  const sending = sendAll(readable, async (piece) => {
    await send(piece);
    handedOn.sent(piece);
  });
  // Whoever waits for the sending below is told; until then its failure must not end the process.
  sending.catch((error: unknown) => controller.error(error));
  try {
    for (const { folder, prefix } of trees)
      for await (const entry of entriesBelow(folder, prefix)) {
        const header = headerOf(entry, links);
        if (!header) continue;
        const body = controller.add(header).getWriter();
        body.closed.catch(() => undefined);
        if (header.type === 'file')
          await fill(entry, header.size, async (piece) => {
            const sent = handedOn.wait(piece);
            await body.write(piece);
            await Promise.race([sent, sending]);
          });
        await body.close();
      }
    controller.finalize();
  } catch (error) {
    controller.error(error);
    await sending.catch(() => undefined);
    throw error;
  }
  await sending;
}

/** Waits until a piece has come out at the other end of the packer: its buffer is used again, and nothing piles up in between. */
class HandedOn {
  #awaited: Uint8Array | undefined;
  #resolve: () => void = () => undefined;

  wait(piece: Uint8Array): Promise<void> {
    this.#awaited = piece;
    return new Promise((resolve) => (this.#resolve = resolve));
  }

  sent(piece: Uint8Array): void {
    if (piece.buffer === this.#awaited?.buffer && piece.byteOffset === this.#awaited.byteOffset) this.#resolve();
  }
}

/** Packs a folder as zip, compressed. Names that a zip cannot hold (with a backslash, or like a drive's) are left out. */
export async function packZip(folder: Folder, send: Send): Promise<void> {
  await checkCount(folder);
  const zip = new (await loadZipWriter()).ZipFile();
  const output = zip.outputStream as Readable;
  zip.once('error', (error: Error) => output.destroy(error));
  const sending = sendAll(output, send);
  sending.catch((error: unknown) => output.destroy(error as Error));
  try {
    for await (const entry of entriesBelow(folder))
      if (!/\\|^[A-Za-z]:/.test(entry.path)) await Promise.race([addToZip(zip, entry), sending]);
    zip.end();
  } catch (error) {
    output.destroy();
    await sending.catch(() => undefined);
    throw error;
  }
  await sending;
}

async function sendAll(pieces: AsyncIterable<Uint8Array> | ReadableStream<Uint8Array>, send: Send): Promise<void> {
  for await (const piece of pieces as AsyncIterable<Uint8Array>) await send(piece);
}

/** A zip's list of contents is kept in memory until its end, so that there is a most. */
async function checkCount(folder: Folder): Promise<void> {
  let count = 0;
  for await (const { stat } of entriesBelow(folder))
    if ((stat.isFile() || stat.isDirectory()) && ++count > MOST_ZIPPED)
      throw new FileError('too_many', `A zip has at most ${MOST_ZIPPED} files and folders here; take a tar.`);
}

function headerOf(
  { path, folder, name, stat }: TreeEntry,
  links: (path: string, target: string) => boolean,
): TarHeader | undefined {
  const common = { mtime: new Date(Math.trunc(stat.mtime.getTime() / 1000) * 1000), mode: modeOf(stat.mode) };
  if (stat.isDirectory()) return { ...common, name: `${path}/`, type: 'directory', size: 0, mode: 0o755 };
  if (stat.isFile()) return { ...common, name: path, type: 'file', size: Number(stat.size), pax: paxOf(path) };
  if (!stat.isSymbolicLink()) return undefined;
  const target = folder.targetOf(name);
  return links(path, target) ? { ...common, name: path, type: 'symlink', linkname: target, size: 0 } : undefined;
}

/** Old readers take a name that is not plain ASCII for whatever their locale says, unless it stands in an extended header. */
function paxOf(path: string): Record<string, string> | undefined {
  return /[^\u0020-\u007e]/.test(path) ? { path } : undefined;
}

function modeOf(mode: bigint): number {
  return (mode & 0o100n) === 0n ? 0o644 : 0o755;
}

/** Gives exactly as many bytes of a file as were said. */
async function fill({ folder, name }: TreeEntry, size: number, take: (piece: Buffer) => Promise<void>): Promise<void> {
  const file = await openRegular(folder, name).catch(() => undefined);
  let filled = 0;
  try {
    if (file) filled = await readPart(file, { first: 0, last: size - 1 }, take);
  } finally {
    await file?.close();
  }
  while (filled < size) {
    const piece = PADDING.subarray(0, size - filled);
    await take(piece);
    filled += piece.length;
  }
}

async function addToZip(zip: ZipFile, entry: TreeEntry): Promise<void> {
  const { path, stat } = entry;
  const options = { mtime: stat.mtime, mode: stat.isDirectory() ? 0o40755 : 0o100000 | modeOf(stat.mode) };
  if (stat.isDirectory()) zip.addEmptyDirectory(path, options);
  if (!stat.isFile()) return;
  const bytes = Readable.from(bytesOfFile(entry), { objectMode: false });
  const closed = once(bytes, 'close');
  zip.addReadStream(bytes, path, { ...options, forceZip64Format: Number(stat.size) >= LARGE_BYTES });
  await closed;
}

async function* bytesOfFile({ folder, name, stat }: TreeEntry): AsyncGenerator<Buffer> {
  // Replaced by a link or removed since it was listed: an empty file says so best.
  const file = await openRegular(folder, name).catch(() => undefined);
  if (!file) return;
  try {
    const size = Number(stat.size);
    for (let at = 0; at < size;) {
      const { buffer, bytesRead } = await file.read(Buffer.allocUnsafeSlow(Math.min(64 * 1024, size - at)), 0, undefined, at);
      if (bytesRead === 0) return;
      yield buffer.subarray(0, bytesRead);
      at += bytesRead;
    }
  } finally {
    await file.close();
  }
}
