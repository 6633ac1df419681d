import { encodeCursor } from '../../lib/page.js';
import { invalidCursor } from './cursor.js';

/**
 * Where a reader stands among the events of all users: after that event, in the order of the transactions that wrote them. A transaction's place
 * in that order is known once it and all before it have ended (DESIGN, outbox order).
 */
export interface Place {
  /** Of the transaction: a number that may be beyond what is exact. */
  xid: string;
  /** Empty before the first event of the transaction. */
  userId: string;
  seq: number;
}

const LAST_XID = 2n ** 63n - 1n;
const SHAPE = /^a(\d{1,20})\.(\d{1,15})\.((?:usr_[0-9a-z]{26})?)$/;

/** Before all of a transaction. */
export function beforeAllOf(xid: string): Place {
  return { xid, userId: '', seq: 0 };
}

export function placeCursor({ xid, userId, seq }: Place): string {
  return encodeCursor(`a${xid}.${seq}.${userId}`);
}

export function placeOfCursor(cursor: string | undefined): Place | undefined {
  if (cursor === undefined || cursor === '') return undefined;
  const [, xid, seq, userId] = SHAPE.exec(Buffer.from(cursor, 'base64url').toString('utf8')) ?? [];
  if (xid === undefined || userId === undefined || BigInt(xid) > LAST_XID) throw invalidCursor();
  const place = { xid, userId, seq: Number(seq) };
  if (placeCursor(place) !== cursor) throw invalidCursor();
  return place;
}

/** Negative, zero or positive, as of a sort. */
export function comparePlaces(one: Place, other: Place): number {
  if (one.xid !== other.xid) return compareXids(one.xid, other.xid);
  if (one.userId !== other.userId) return one.userId < other.userId ? -1 : 1;
  return one.seq - other.seq;
}

export function compareXids(one: string, other: string): number {
  const [a, b] = [BigInt(one), BigInt(other)];
  if (a === b) return 0;
  return a < b ? -1 : 1;
}

export function nextXid(xid: string): string {
  return String(BigInt(xid) + 1n);
}
