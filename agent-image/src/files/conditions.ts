import type { BigIntStats } from 'node:fs';
import { FileError } from './file-error.js';

/**
 * Says which state of a file this is. The time is that of the last change of any kind, which a program cannot set: a file that was
 * written in place and given its old time back has another tag.
 */
export function etagOf(stat: BigIntStats): string {
  return `"${stat.ino.toString(36)}-${stat.ctimeNs.toString(36)}-${stat.size.toString(36)}"`;
}

/** What `If-Match` and `If-None-Match` of a write ask for. */
export interface Guard {
  match: string | undefined;
  noneMatch: string | undefined;
}

/** Throws 412 when what is there now (undefined: nothing) is not what the guard asks for. Folders and the like have no tag. */
export function checkGuard(guard: Guard, there: BigIntStats | undefined): void {
  const tag = there?.isFile() ? etagOf(there) : undefined;
  if (guard.match !== undefined && !(there && (guard.match.trim() === '*' || lists(guard.match, tag))))
    throw new FileError('precondition_failed', there ? 'The file has changed.' : 'There is no such file.');
  if (guard.noneMatch !== undefined && there && (guard.noneMatch.trim() === '*' || lists(guard.noneMatch, tag)))
    throw new FileError('precondition_failed', 'There is something of that name already.');
}

/** Whether a list of tags, as a header holds it, has this one. Weak ones count too where only freshness is asked. */
export function lists(header: string, tag: string | undefined, weakly = false): boolean {
  return (
    tag !== undefined &&
    header.split(',').some((item) => {
      const given = item.trim();
      return given === tag || (weakly && given === `W/${tag}`);
    })
  );
}

/** Bytes of a file, both ends included. */
export interface ByteRange {
  first: number;
  last: number;
}

/**
 * The part that a `Range` header asks for. Undefined: the whole file, also for several parts at once and for headers that say
 * nothing sensible, as the standard allows.
 */
export function rangeOf(header: string | undefined, size: number): ByteRange | undefined {
  const [, from = '', to = ''] = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header?.trim() ?? '') ?? [];
  if (from === '' && to === '') return undefined;
  const first = from === '' ? Math.max(0, size - Number(to)) : Number(from);
  const last = from === '' || to === '' ? size - 1 : Math.min(Number(to), size - 1);
  if (from !== '' && to !== '' && Number(to) < Number(from)) return undefined;
  if (first >= size || last < first)
    throw new FileError('range', 'The file is not that long.', { headers: { 'content-range': `bytes */${size}` } });
  return { first, last };
}
