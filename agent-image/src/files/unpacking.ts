import type { FileHandle } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import type { ParsedTarEntry, TarHeader } from 'modern-tar';
import type { Entry, ZipFile } from 'yauzl';
import { loadTar, loadZipReader } from './archive-packages.js';
import { FileError, systemCode } from './file-error.js';
import { bad, type ArchiveEntry, type Stage } from './stage.js';

/** Unpacks a tar as it comes. */
export async function unpackTar(bytes: AsyncIterable<Uint8Array>, stage: Stage): Promise<void> {
  const { createTarDecoder } = await loadTar();
  const { readable, writable } = createTarDecoder({ strict: true });
  const feeding = new Feeding(bytes, writable);
  try {
    for await (const { header, body } of readable as unknown as AsyncIterable<ParsedTarEntry>) {
      const entry = tarEntry(header);
      await stage.add(entry, entry.kind === 'file' ? body : undefined);
      if (entry.kind !== 'file' || header.size === 0) await body.cancel();
    }
  } catch (error) {
    throw reason(feeding.failure ?? error, 'is not a tar, is damaged, or ends too early');
  } finally {
    feeding.stop();
  }
}

/** Feeds a decoder, no faster than it takes it. */
class Feeding {
  /** What went wrong at the source; the decoder would tell it as a failure of its own. */
  failure: unknown;
  #isStopped = false;

  constructor(bytes: AsyncIterable<Uint8Array>, writable: WritableStream<Uint8Array>) {
    const writer = writable.getWriter();
    writer.closed.catch(() => undefined);
    // A decoder that has failed says so at its other end; here there is nothing left to do then.
    this.#feed(bytes, writer).catch(() => undefined);
  }

  stop(): void {
    this.#isStopped = true;
  }

  async #feed(bytes: AsyncIterable<Uint8Array>, writer: WritableStreamDefaultWriter<Uint8Array>): Promise<void> {
    try {
      for await (const piece of this.#noting(bytes)) {
        if (this.#isStopped) return;
        await writer.write(piece);
      }
      await writer.close();
    } catch (error) {
      await writer.abort(error);
    }
  }

  async *#noting(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    try {
      yield* bytes;
    } catch (error) {
      this.failure = error;
      throw error;
    }
  }
}

/** Unpacks a zip that lies in a file, by its list of contents. */
export async function unpackZip(file: FileHandle, stage: Stage): Promise<void> {
  const { fromFd } = await loadZipReader();
  try {
    const zip = await new Promise<ZipFile>((resolve, reject) =>
      // Names come as bytes: what they are, and what they may be, is decided here.
      fromFd(file.fd, { lazyEntries: true, autoClose: false, decodeStrings: false, validateEntrySizes: true }, (error, opened) =>
        error ? reject(error) : resolve(opened),
      ),
    );
    for await (const entry of entriesOf(zip)) {
      const described = zipEntry(entry);
      await stage.add(described, described.kind === 'file' ? bytesIn(zip, entry) : undefined);
    }
  } catch (error) {
    throw reason(error, 'is not a zip, or is damaged');
  }
}

/** What we refuse and what the disk refuses is told as it is; all else is the archive's fault. */
function reason(error: unknown, otherwise: string): unknown {
  return error instanceof FileError ||
    ((systemCode(error) ?? '').startsWith('E') && !(systemCode(error) ?? '').startsWith('ERR_'))
    ? error
    : bad(otherwise);
}

function tarEntry({ name, type = 'file', mode = 0, mtime, linkname, pax }: TarHeader): ArchiveEntry {
  if (type !== 'file' && type !== 'directory' && type !== 'symlink')
    throw bad(type === 'link' ? 'has links' : 'has devices or the like');
  if (Object.keys(pax ?? {}).some((key) => key.startsWith('GNU.sparse')))
    throw bad('has files with holes, which are not read here');
  const kind = type === 'file' ? 'file' : type === 'directory' ? 'folder' : 'link';
  return { name, kind, mode, modified: mtime, ...(linkname === undefined ? {} : { target: linkname }) };
}

const UTF8_FLAG = 0x800;
const ENCRYPTED_FLAG = 0x1;
const MADE_ON_UNIX = 3;
const TYPE_BITS = 0o170000;
const REGULAR = 0o100000;
const DIRECTORY = 0o040000;
const SYMLINK = 0o120000;
const UNICODE_NAME = 0x7075;

function zipEntry(entry: Entry): ArchiveEntry {
  if ((entry.generalPurposeBitFlag & ENCRYPTED_FLAG) !== 0) throw bad('is encrypted');
  if (entry.compressionMethod !== 0 && entry.compressionMethod !== 8) throw bad('is compressed in a way that is not read here');
  const mode = entry.versionMadeBy >> 8 === MADE_ON_UNIX ? entry.externalFileAttributes >>> 16 : 0;
  const type = mode & TYPE_BITS;
  if (type === SYMLINK) throw bad('has links');
  if (type !== 0 && type !== REGULAR && type !== DIRECTORY) throw bad('has devices or the like');
  const name = zipName(entry);
  return { name, kind: name.endsWith('/') || type === DIRECTORY ? 'folder' : 'file', mode, modified: undefined };
}

/** UTF-8 where the zip says so, or where the bytes are it (macOS does not say); else of the old code page. */
function zipName({ fileNameRaw, generalPurposeBitFlag, extraFields }: Entry): string {
  const unicode = extraFields.find(({ id, data }) => id === UNICODE_NAME && data.length > 5)?.data.subarray(5);
  const bytes = unicode ?? fileNameRaw;
  const text = bytes.toString('utf8');
  if (unicode !== undefined || (generalPurposeBitFlag & UTF8_FLAG) !== 0 || !text.includes('\ufffd')) return text;
  return [...bytes].map((byte) => (byte < 0x80 ? String.fromCharCode(byte) : (CP437[byte - 0x80] as string))).join('');
}

const CP437 = Array.from(
  'ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0',
);

/** The list of contents, an entry at a time. */
async function* entriesOf(zip: ZipFile): AsyncGenerator<Entry> {
  let failed: Error | undefined;
  // It may fail between two entries as well, and an error that nobody listens to ends the process.
  zip.on('error', (error: Error) => (failed ??= error));
  for (;;) {
    if (failed) throw failed;
    const entry = await nextEntry(zip);
    if (!entry) return;
    yield entry;
  }
}

function nextEntry(zip: ZipFile): Promise<Entry | undefined> {
  return new Promise((resolve, reject) => {
    const settle = (done: () => void) => {
      zip.off('entry', found).off('end', ended).off('error', broken);
      done();
    };
    const found = (entry: Entry) => settle(() => resolve(entry));
    const ended = () => settle(() => resolve(undefined));
    const broken = (error: Error) => settle(() => reject(error));
    zip.once('entry', found).once('end', ended).once('error', broken);
    zip.readEntry();
  });
}

async function* bytesIn(zip: ZipFile, entry: Entry): AsyncGenerator<Uint8Array> {
  const stream = await new Promise<Readable>((resolve, reject) =>
    zip.openReadStream(entry, (error, opened) => (error ? reject(error) : resolve(opened))),
  );
  yield* stream as AsyncIterable<Buffer>;
}
