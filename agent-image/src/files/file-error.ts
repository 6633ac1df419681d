import { HttpError } from '../errors.js';

/** What a file call is refused with; the word is `code` in the answer. */
export type FileErrorCode =
  | 'bad_archive'
  | 'bad_path'
  | 'bad_request'
  | 'busy'
  | 'cut'
  | 'denied'
  | 'disk_full'
  | 'exists'
  | 'is_folder'
  | 'not_folder'
  | 'not_found'
  | 'precondition_failed'
  | 'quota'
  | 'range'
  | 'special'
  | 'too_large'
  | 'too_many';

const STATUS: Record<FileErrorCode, number> = {
  bad_archive: 400,
  bad_path: 400,
  bad_request: 400,
  busy: 503,
  cut: 400,
  denied: 403,
  disk_full: 507,
  exists: 409,
  is_folder: 409,
  not_folder: 409,
  not_found: 404,
  precondition_failed: 412,
  quota: 413,
  range: 416,
  special: 409,
  too_large: 413,
  too_many: 413,
};

/** A file call that cannot be done. Its message never holds a path, so that none of the volume's leaks. */
export class FileError extends HttpError {
  readonly code: FileErrorCode;

  constructor(
    code: FileErrorCode,
    message: string,
    more: { headers?: Record<string, string>; fields?: Record<string, unknown> } = {},
  ) {
    const status = STATUS[code];
    const type = status === 503 ? 'unavailable' : status === 507 ? 'api_error' : 'invalid_request_error';
    super(status, type, message, more.headers ?? {}, { code, more: more.fields ?? {} });
    this.name = 'FileError';
    this.code = code;
  }
}

const OF_THE_SYSTEM: Record<string, [FileErrorCode, string]> = {
  ENOENT: ['not_found', 'There is no such file or folder.'],
  EISDIR: ['is_folder', 'It is a folder.'],
  ENOTDIR: ['not_folder', 'A part of the path is not a folder.'],
  EEXIST: ['exists', 'There is something of that name already.'],
  ENOTEMPTY: ['exists', 'There is a folder of that name already, and it is not empty.'],
  EACCES: ['denied', 'The permissions of the file or folder forbid it.'],
  EPERM: ['denied', 'The permissions of the file or folder forbid it.'],
  ELOOP: ['bad_path', 'The path leads through a link that is not followed.'],
  ENAMETOOLONG: ['bad_path', 'The path is too long.'],
  EINVAL: ['bad_path', 'The path cannot be used here.'],
  ENXIO: ['special', 'It is not a regular file.'],
  ENOSPC: ['disk_full', 'The disk is full.'],
  EDQUOT: ['disk_full', 'The disk is full.'],
  EMFILE: ['busy', 'Too many files are open at once; try again.'],
  ENFILE: ['busy', 'Too many files are open at once; try again.'],
};

/** The error as a caller may see it: failures of the file system in words, all else as it is. */
export function inWords(error: unknown): unknown {
  if (error instanceof HttpError) return error;
  const known = OF_THE_SYSTEM[systemCode(error) ?? ''];
  return known ? new FileError(known[0], known[1]) : error;
}

/** The errno code of a failed call of the file system. */
export function systemCode(error: unknown): string | undefined {
  return error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined;
}
