import type { Readable } from 'node:stream';
import { AppError, type ErrorCode } from '../lib/errors.js';
import type { LinkResponse } from '../link/link.js';
import { readCapped } from './gateway.js';

/** A file's state after a write. */
export interface WrittenFile {
  isNew: boolean;
  size: number;
  etag: string;
  modified: string;
}

export interface ListedFile {
  path: string;
  kind: 'file' | 'folder' | 'link' | 'special';
  size: number;
  modified: string | null;
  etag?: string;
}

/** What a gateway says of a file: its headers, checked, and its bytes. */
export interface OpenedFile {
  status: 200 | 206 | 304;
  kind: 'file' | 'folder';
  etag: string | undefined;
  lastModified: string | undefined;
  /** Of the body; undefined for 304 and for folders. */
  lengthBytes: number | undefined;
  contentRange: string | undefined;
  body: Readable;
}

const REFUSAL_MS = 5_000;
const ETAG = /^"[\x21\x23-\x7e]{1,200}"$/;
const KINDS = ['file', 'folder', 'link', 'special'];

/** What each of the gateway's codes is to a client; its own words follow, which are written for the tenant. */
const REFUSALS: Record<string, [code: ErrorCode, message: string]> = {
  not_found: ['not_found', 'no such file or folder'],
  is_folder: ['conflict', 'it is a folder'],
  not_folder: ['conflict', 'a part of the path is a file, not a folder'],
  exists: ['conflict', 'there is something of that name already'],
  special: ['conflict', 'it is not a regular file'],
  denied: ['conflict', 'the permissions of the file or folder forbid it'],
  precondition_failed: ['precondition_failed', 'the file is not at that version'],
  quota: ['payload_too_large', 'there is not so much room left'],
  too_large: ['payload_too_large', 'it is too large'],
  too_many: ['payload_too_large', 'there are too many files in it'],
  disk_full: ['insufficient_storage', 'the disk is full'],
  bad_archive: ['unprocessable', 'the archive cannot be unpacked'],
  bad_request: ['invalid_request', 'invalid request'],
};

/** What a refused call is to its client. `aboutFolder`: what to say where it is a folder that stands in the way. */
export async function refusal(response: LinkResponse, aboutFolder?: string): Promise<AppError> {
  const { status, headers } = response;
  const said = saidIn(await readCapped(response.body, REFUSAL_MS));
  if (status === 416) return notThatLong(headers['content-range']);
  if (said.code === 'is_folder' && aboutFolder !== undefined) return new AppError('conflict', aboutFolder);
  const message = said.message + figuresOf(said);
  if (said.code === 'bad_path')
    return new AppError('invalid_request', 'invalid path', { fields: [{ path: 'path', message: message || 'cannot be used' }] });
  const known = Object.hasOwn(REFUSALS, said.code) ? REFUSALS[said.code] : undefined;
  if (known) return new AppError(known[0], message || known[1]);
  if (status === 412) return new AppError('precondition_failed', message || 'the file is not at that version');
  if (status === 404) return new AppError('not_found', message || 'no such file or folder');
  // Said before anything was done: the gateway stops, has no room now, or has no config yet.
  if (status === 503) return new AppError('unavailable', message || 'the agent is busy', { retryAfterS: 1 });
  return new AppError('upstream_error', `the agent's container answered ${status}${message === '' ? '' : `: ${message}`}`);
}

interface Said {
  code: string;
  message: string;
  limit: number | undefined;
  used: number | undefined;
}

/** A gateway's error, in the manner of Berth's own. */
function saidIn(text: string): Said {
  try {
    const { error, limit, used } = JSON.parse(text) as {
      error?: { code?: unknown; message?: unknown };
      limit?: unknown;
      used?: unknown;
    };
    const message = textOf(error?.message, 300)
      .replace(/\.$/, '')
      .replace(/^[A-Z](?=[a-z])/, (letter) => letter.toLowerCase());
    return { code: textOf(error?.code, 100), message, limit: countOf(limit), used: countOf(used) };
  } catch {
    return { code: '', message: '', limit: undefined, used: undefined };
  }
}

function figuresOf({ limit, used }: Said): string {
  if (limit === undefined) return '';
  return used === undefined ? `: at most ${limit} bytes` : `: ${used} of ${limit} bytes are used`;
}

function countOf(value: unknown): number | undefined {
  return isCount(value) ? value : undefined;
}

/** A 416 says how long the file is. */
function notThatLong(contentRange: string | undefined): AppError {
  const isSane = contentRange !== undefined && /^bytes \*\/\d{1,16}$/.test(contentRange);
  const headers: Record<string, string> = isSane ? { 'Content-Range': contentRange } : {};
  return new AppError('range_not_satisfiable', 'the file ends before that range begins', { headers });
}

/** The headers of an opened file, checked. */
export function openedFile({ status, headers }: LinkResponse, method: 'GET' | 'HEAD'): Omit<OpenedFile, 'body'> {
  const { etag, 'content-range': contentRange, 'content-length': length, 'last-modified': modified } = headers;
  const kind = headers['x-berth-kind'] === 'folder' ? 'folder' : 'file';
  const opened = {
    status: status as OpenedFile['status'],
    kind,
    etag: etag !== undefined && ETAG.test(etag) ? etag : undefined,
    lastModified: modified !== undefined && /^[\w ,:+-]{1,40}$/.test(modified) ? modified : undefined,
    contentRange: undefined,
    lengthBytes: undefined,
  } as const;
  if (status === 304 || kind === 'folder') return opened;
  if (length === undefined || !/^\d{1,15}$/.test(length)) throw notUnderstood();
  const lengthBytes = Number(length);
  if (status === 200) return { ...opened, lengthBytes };
  const range = /^bytes (\d{1,15})-(\d{1,15})\/\d{1,15}$/.exec(contentRange ?? '');
  if (!range || (method === 'GET' && Number(range[2]) - Number(range[1]) + 1 !== lengthBytes)) throw notUnderstood();
  return { ...opened, lengthBytes, contentRange };
}

/** One entry of a folder, checked. */
export function listedFile(entry: unknown): ListedFile {
  if (typeof entry !== 'object' || entry === null) throw notUnderstood();
  const { path, kind, size, modified, etag } = entry as Record<string, unknown>;
  if (typeof path !== 'string' || typeof kind !== 'string' || !KINDS.includes(kind)) throw notUnderstood();
  return {
    path: path.slice(0, 5_000),
    kind: kind as ListedFile['kind'],
    size: isCount(size) ? size : 0,
    modified: timeOf(modified) ?? null,
    ...(typeof etag === 'string' && ETAG.test(etag) ? { etag } : {}),
  };
}

export function objectIn(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch (cause) {
    throw notUnderstood(cause);
  }
  throw notUnderstood();
}

/** The answer to a write. */
export function writtenFile(status: number, { size, etag, modified }: Record<string, unknown>): WrittenFile {
  if (!isCount(size) || typeof etag !== 'string' || !ETAG.test(etag)) throw notUnderstood();
  return { isNew: status === 201, size, etag, modified: timeOf(modified) ?? new Date().toISOString() };
}

export function listingIn(
  { entries, next_cursor: next }: Record<string, unknown>,
  limit: number,
): { entries: ListedFile[]; nextCursor: string | null } {
  if (!Array.isArray(entries) || entries.length > limit) throw notUnderstood();
  return { entries: entries.map(listedFile), nextCursor: typeof next === 'string' ? next.slice(0, 8_192) : null };
}

export function countsIn({ files, bytes }: Record<string, unknown>): { files: number; bytes: number } {
  if (!isCount(files) || !isCount(bytes)) throw notUnderstood();
  return { files, bytes };
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

function timeOf(value: unknown): string | undefined {
  const ms = typeof value === 'string' && value.length < 40 ? Date.parse(value) : NaN;
  return Number.isNaN(ms) ? undefined : new Date(ms).toISOString();
}

function textOf(value: unknown, limit: number): string {
  return typeof value === 'string' ? value.slice(0, limit) : '';
}

function notUnderstood(cause?: unknown): AppError {
  return new AppError('upstream_error', "the agent's container gave an answer that was not understood", { cause });
}
