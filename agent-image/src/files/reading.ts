import type { BigIntStats } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import type { ServerResponse } from 'node:http';
import type { Request } from '../body.js';
import type { Response } from '../sse.js';
import { etagOf, lists, rangeOf, type ByteRange } from './conditions.js';
import { FileError } from './file-error.js';
import { within, type Folder } from './folder.js';
import { walk } from './place.js';

/** As much of a file as is in memory at a time. */
const PIECE_BYTES = 64 * 1024;

/** Answers `GET` and `HEAD` of a file; of a folder, only that it is one. */
export async function answerWithFile(root: Folder, segments: string[], request: Request, response: Response): Promise<void> {
  const isHead = request.method === 'HEAD';
  const { folder, name } = walk(root, segments, { last: 'followed' });
  const file = await within(folder, async () => {
    const stat = folder.stat(name);
    if (!stat) throw new FileError('not_found', 'There is no such file or folder.');
    if (stat.isDirectory()) return answerWithFolder(stat, isHead, response);
    return openRegular(folder, name);
  });
  if (!file) return;
  try {
    await answerWithOpened(file, request, response, isHead);
  } finally {
    await file.close();
  }
}

/** Opens a file to read. Throws where it is a pipe, a socket, a folder, or a link that was put there since the walk. */
export async function openRegular(folder: Folder, name: string): Promise<FileHandle> {
  const file = await folder.openToRead(name);
  try {
    const stat = await file.stat();
    if (stat.isDirectory()) throw new FileError('is_folder', 'It is a folder.');
    if (!stat.isFile()) throw new FileError('special', 'It is not a regular file.');
    return file;
  } catch (error) {
    await file.close();
    throw error;
  }
}

/**
 * Reads a part of a file, as fast as `take` is done with each piece: all go through one buffer, or a large file would leave a trail
 * of them faster than they are collected. Gives how many bytes there were.
 */
export async function readPart(file: FileHandle, part: ByteRange, take: (piece: Buffer) => Promise<void>): Promise<number> {
  const buffer = Buffer.allocUnsafeSlow(Math.max(0, Math.min(PIECE_BYTES, part.last - part.first + 1)));
  let at = part.first;
  while (at <= part.last) {
    const { bytesRead } = await file.read(buffer, 0, Math.min(buffer.length, part.last - at + 1), at);
    if (bytesRead === 0) break;
    await take(buffer.subarray(0, bytesRead));
    at += bytesRead;
  }
  return at - part.first;
}

/** Writes to an answer and waits until it is sent, so that the bytes are free again. Throws once the reader is gone. */
export async function write(response: Response, piece: Uint8Array): Promise<void> {
  if (isGone(response)) throw new FileError('cut', 'The reader went away.');
  await new Promise<void>((resolve, reject) => {
    const gone = () => reject(new FileError('cut', 'The reader went away.'));
    response.once('close', gone);
    (response as ServerResponse).write(piece, (error) => {
      response.off('close', gone);
      if (error) gone();
      else resolve();
    });
  });
}

/** Node's HTTP/2 answers say nothing of it themselves, and take writes for good after it. */
function isGone(response: Response): boolean {
  return 'stream' in response ? response.stream.destroyed || response.stream.closed : response.destroyed;
}

/** Ends an answer that promised more than there is, so that its reader does not take it for whole. */
export function breakOff(response: Response): void {
  if ('stream' in response) response.stream.close(INTERNAL_ERROR);
  else response.destroy();
}

/** HTTP/2's INTERNAL_ERROR. */
const INTERNAL_ERROR = 2;

function answerWithFolder(stat: BigIntStats, isHead: boolean, response: Response): undefined {
  if (!isHead) throw new FileError('is_folder', 'It is a folder.');
  (response as ServerResponse).writeHead(200, { 'last-modified': stat.mtime.toUTCString(), 'x-berth-kind': 'folder' });
  response.end();
}

async function answerWithOpened(file: FileHandle, request: Request, response: Response, isHead: boolean): Promise<void> {
  const stat = await file.stat({ bigint: true });
  const etag = etagOf(stat);
  const headers = { etag, 'last-modified': stat.mtime.toUTCString(), 'accept-ranges': 'bytes', 'x-berth-kind': 'file' };
  const known = request.headers['if-none-match'];
  if (known !== undefined && (known.trim() === '*' || lists(known, etag, true))) {
    (response as ServerResponse).writeHead(304, headers);
    response.end();
    return;
  }
  const size = Number(stat.size);
  const ifRange = request.headers['if-range'];
  const range = ifRange === undefined || ifRange === etag ? rangeOf(request.headers.range, size) : undefined;
  const part = range ?? { first: 0, last: size - 1 };
  (response as ServerResponse).writeHead(range ? 206 : 200, {
    ...headers,
    'content-type': 'application/octet-stream',
    'content-length': part.last - part.first + 1,
    ...(range ? { 'content-range': `bytes ${range.first}-${range.last}/${size}` } : {}),
  });
  if (!isHead) await sendWhole(file, part, response);
  if (!isGone(response)) response.end();
}

async function sendWhole(file: FileHandle, part: ByteRange, response: Response): Promise<void> {
  try {
    const sent = await readPart(file, part, (piece) => write(response, piece));
    // The file was made shorter meanwhile: the length that was promised cannot be kept.
    if (sent <= part.last - part.first) breakOff(response);
  } catch {
    // The head is out, so that no error can be told any more.
    breakOff(response);
  }
}
