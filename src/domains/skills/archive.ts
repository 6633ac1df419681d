import { promisify } from 'node:util';
import { crc32, gunzip } from 'node:zlib';
import { createTarDecoder } from 'modern-tar';
import yauzl from 'yauzl';
import { AppError } from '../../lib/errors.js';
import { archiveFault, entryFault, Intake, SKILL_LIMITS, type SkillFile } from './intake.js';

/** What the headers and the padding of a tar may add to its files. */
const TAR_OVERHEAD_BYTES = 6_000_000;
const FILE_TYPE = 0xf000;
const REGULAR = 0x8000;
const FOLDER = 0x4000;
const LINK = 0xa000;
const MADE_ON_UNIX = 3;

export type ArchiveKind = 'zip' | 'gzip' | 'tar';

/** What the bytes are, by their first ones; undefined for what is none of these. */
export function archiveKind(bytes: Buffer): ArchiveKind | undefined {
  const head = bytes.subarray(0, 4).toString('latin1');
  if (/^PK(\u0003\u0004|\u0005\u0006|\u0007\u0008)/.test(head)) return 'zip';
  if (head.startsWith('\u001f\u008b')) return 'gzip';
  return bytes.subarray(257, 262).toString('latin1') === 'ustar' ? 'tar' : undefined;
}

/** The files of a zip, a tar or a tar.gz. Refuses, each with its own words, whatever is unsafe, hidden, lying or too large. */
export async function readArchive(bytes: Buffer, kind: ArchiveKind): Promise<SkillFile[]> {
  const intake = new Intake();
  if (kind === 'zip') await readZip(bytes, intake);
  else await readTar(kind === 'gzip' ? await unzipped(bytes) : bytes, intake);
  return intake.finish();
}

async function readZip(bytes: Buffer, intake: Intake): Promise<void> {
  try {
    // Names stay bytes until they were looked at: the library would mend some and refuse others in its own words.
    const zip = await yauzl.fromBufferPromise(bytes, { lazyEntries: true, decodeStrings: false });
    for await (const entry of zip.eachEntry()) await readZipEntry(zip, entry, intake);
  } catch (error) {
    throw error instanceof AppError ? error : archiveFault('is not a well-formed zip archive', error);
  }
}

async function readZipEntry(zip: yauzl.ZipFile, entry: yauzl.Entry, intake: Intake): Promise<void> {
  const raw = entry.fileNameRaw;
  const name = yauzl.getFileNameLowLevel(entry.generalPurposeBitFlag, raw, entry.extraFields, true);
  const mode = entry.versionMadeBy >>> 8 === MADE_ON_UNIX ? entry.externalFileAttributes >>> 16 : 0;
  const type = mode & FILE_TYPE;
  if (type === LINK) throw entryFault(name, 'is a symbolic link');
  if (type !== 0 && type !== REGULAR && type !== FOLDER) throw entryFault(name, 'is a device, a pipe or a socket');
  if (entry.isEncrypted()) throw entryFault(name, 'is encrypted');
  const path = intake.begin(type === FOLDER && !name.endsWith('/') ? `${name}/` : name, entry.uncompressedSize);
  if (path === undefined) return;
  if (!entry.canDecodeFileData()) throw entryFault(name, 'is compressed in a way that is not supported');
  const content = await unpackEntry(zip, entry, name, intake);
  intake.add(path, content, (mode & 0o111) !== 0);
}

async function unpackEntry(zip: yauzl.ZipFile, entry: yauzl.Entry, name: string, intake: Intake): Promise<Buffer> {
  const chunks: Buffer[] = [];
  try {
    for await (const chunk of await zip.openReadStreamPromise(entry)) {
      intake.count((chunk as Buffer).length);
      chunks.push(chunk as Buffer);
    }
  } catch (error) {
    if (error instanceof AppError) throw error;
    throw entryFault(name, 'is damaged, or has another size than the archive says');
  }
  const content = Buffer.concat(chunks);
  if (crc32(content) !== entry.crc32) throw entryFault(name, 'is damaged: its checksum does not hold');
  return content;
}

async function unzipped(bytes: Buffer): Promise<Buffer> {
  const limit = SKILL_LIMITS.unpackedBytes + TAR_OVERHEAD_BYTES;
  try {
    return await promisify(gunzip)(bytes, { maxOutputLength: limit });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_BUFFER_TOO_LARGE')
      throw archiveFault('is not a well-formed gzip file', error);
    throw new AppError('payload_too_large', `the archive is larger than ${limit} bytes when unpacked`, { cause: error });
  }
}

async function readTar(bytes: Buffer, intake: Intake): Promise<void> {
  if (bytes.subarray(257, 262).toString('latin1') !== 'ustar') throw archiveFault('holds no tar archive');
  const source = new ReadableStream<Uint8Array>({
    start(controller) {
      controller.enqueue(new Uint8Array(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.length));
      controller.close();
    },
  });
  try {
    for await (const { header, body } of source.pipeThrough(createTarDecoder({ strict: true }))) {
      const path = tarPath(header, intake);
      if (path === undefined) {
        await body.cancel();
        continue;
      }
      const content = Buffer.from(await new Response(body).arrayBuffer());
      intake.count(content.length);
      intake.add(path, content, ((header.mode ?? 0) & 0o111) !== 0);
    }
  } catch (error) {
    throw error instanceof AppError ? error : archiveFault('is not a well-formed tar archive, or ends too early', error);
  }
}

const NOT_FILES: Record<string, string> = {
  link: 'is a hard link',
  symlink: 'is a symbolic link',
  'character-device': 'is a device',
  'block-device': 'is a device',
  fifo: 'is a pipe',
};

function tarPath(header: { name: string; type?: string; size: number }, intake: Intake): string | undefined {
  const { name, type = 'file', size } = header;
  const fault = NOT_FILES[type];
  if (fault) throw entryFault(name, fault);
  return intake.begin(type === 'directory' && !name.endsWith('/') ? `${name}/` : name, size);
}
