import { createReadStream } from 'node:fs';
import { mkdir, open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { createTarDecoder, type ParsedTarEntry } from 'modern-tar';
import { HttpError } from '../errors.js';
import { checkRelativePath } from '../paths.js';

const MOST_ENTRIES = 5000;
const MOST_DEPTH = 16;

/**
 * Unpacks a tar into a folder, which is made. What it holds may come from anybody: only files and folders are taken, only below the folder,
 * and nothing twice. Throws 400 for all else; what was made until then is the caller's to remove.
 */
export async function unpack(tarPath: string, dir: string): Promise<void> {
  await mkdir(dir, { mode: 0o755 });
  const decoder = createTarDecoder({ strict: true });
  const reader = decoder.readable.getReader();
  const feeding = feed(tarPath, decoder.writable.getWriter());
  // It may fail before the reader notices, and what nobody waits for by then would end the process.
  feeding.catch(() => undefined);
  try {
    let entries = 0;
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      if (++entries > MOST_ENTRIES) throw bad(`has more than ${MOST_ENTRIES} entries`);
      await place(next.value, dir);
    }
    await feeding;
  } catch (error) {
    await reader.cancel(error).catch(() => undefined);
    await feeding.catch(() => undefined);
    throw inWords(error);
  }
}

async function feed(tarPath: string, writer: WritableStreamDefaultWriter<Uint8Array>): Promise<void> {
  for await (const piece of createReadStream(tarPath) as AsyncIterable<Buffer>) await writer.write(piece);
  await writer.close();
}

async function place({ header, body }: ParsedTarEntry, dir: string): Promise<void> {
  const isFolder = header.type === 'directory';
  if (!isFolder && header.type !== 'file') throw bad('holds something else than files and folders');
  const path = join(dir, checkedName(isFolder ? header.name.replace(/\/$/, '') : header.name));
  await mkdir(isFolder ? path : dirname(path), { recursive: true, mode: 0o755 });
  if (isFolder) return;
  const file = await open(path, 'wx', 0o600);
  try {
    const reader = body.getReader();
    for (let next = await reader.read(); !next.done; next = await reader.read()) await file.writeFile(next.value);
    await file.chmod((header.mode ?? 0) & 0o111 ? 0o755 : 0o644);
  } finally {
    await file.close();
  }
}

/** The name as it stands: a name that would have to be put right first is none that an honest archive has. */
function checkedName(name: string): string {
  const wrong = checkRelativePath(name);
  if (wrong) throw bad(`has an entry whose name ${wrong}`);
  const segments = name.split('/');
  if (segments.length > MOST_DEPTH) throw bad(`has an entry more than ${MOST_DEPTH} folders deep`);
  if (name.includes('\\') || segments.some((segment) => segment === '' || segment === '.'))
    throw bad('has an entry whose name holds a backslash, an empty part or "."');
  return name;
}

function bad(what: string): HttpError {
  return new HttpError(400, 'invalid_request_error', `The package ${what}.`, {}, { code: 'bad_archive' });
}

/** Failures of the disk are told as they are. A name that is taken, and whatever the decoder does not like, is the archive's fault. */
function inWords(error: unknown): unknown {
  if (error instanceof HttpError) return error;
  const { code } = error as NodeJS.ErrnoException;
  if (code === 'EEXIST' || code === 'ENOTDIR' || code === 'EISDIR') return bad('has two entries of one name');
  return code === undefined ? bad('is no whole tar') : error;
}
