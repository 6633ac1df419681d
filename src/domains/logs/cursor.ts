import { AppError } from '../../lib/errors.js';
import { encodeCursor } from '../../lib/page.js';
import type { Position } from './scan.js';

/** Where to go on, and in which direction: `older` lines before a place, or `newer` ones after it. */
export interface LogCursor {
  to: 'older' | 'newer';
  place: Position;
}

export function encodeLogCursor({ to, place }: LogCursor): string {
  return encodeCursor(`${to === 'older' ? 'o' : 'n'}${place.segment}.${place.offset}`);
}

/** `invalid_request` naming the field where it is none of ours. Where it points to nothing, that is found out by whoever looks there. */
export function decodeLogCursor(text: string): LogCursor {
  const match = /^([on])(\d{1,9})\.(\d{1,12})$/.exec(Buffer.from(text, 'base64url').toString('latin1'));
  if (match) return { to: match[1] === 'o' ? 'older' : 'newer', place: { segment: Number(match[2]), offset: Number(match[3]) } };
  throw new AppError('invalid_request', 'invalid cursor', {
    fields: [{ path: 'cursor', message: 'must be a cursor of an earlier answer, or the id of an event' }],
  });
}
