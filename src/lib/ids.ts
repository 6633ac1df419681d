import { randomFillSync } from 'node:crypto';

/** The kinds of id, by prefix. A name may never begin with one of these (DESIGN: names and ids share a path slot). */
export const ID_PREFIXES = [
  'usr',
  'agt',
  'dep',
  'ins',
  'key',
  'evt',
  'trn',
  'cnv',
  'use',
  'req',
  'itl',
  'sec',
  'vrt',
  'skl',
  'tpl',
  'plg',
  'hbt',
  'cfv',
  'rol',
  'snp',
  'rst',
  'whk',
  'whd',
  'aud',
  'rev',
  'nch',
  'nrl',
  'ntf',
  'ntd',
] as const;
export type IdPrefix = (typeof ID_PREFIXES)[number];

/** Random bytes are fetched many at a time: a call into the system for each id would cost more than the id. */
const pool = Buffer.alloc(4096);
let poolAt = pool.length;

function takeRandom(count: number): Buffer {
  if (poolAt + count > pool.length) {
    randomFillSync(pool);
    poolAt = 0;
  }
  poolAt += count;
  return pool.subarray(poolAt - count, poolAt);
}

const ALPHABET = '0123456789abcdefghjkmnpqrstvwxyz';

/** The random part of the last id, a number below 32 a character, and the millisecond it was made in. */
const last = new Uint8Array(16);
let lastMs = -1;

/**
 * A new id such as `usr_01kb…`: the prefix, then 26 lower-case Crockford base32 characters laid out as a ULID
 * (48 bits of milliseconds, 80 random bits; https://github.com/ulid/spec), so that ids sort by the time they were made.
 * Those of one millisecond sort in the order they were made too, within a process: the random part of the last one, plus one.
 */
export function newId(prefix: IdPrefix, nowMs: number = Date.now()): string {
  if (nowMs !== lastMs || !increment()) {
    takeRandom(last.length).forEach((byte, i) => (last[i] = byte & 31));
    lastMs = nowMs;
  }
  let out = '';
  let time = nowMs;
  for (let i = 0; i < 10; i++) {
    out = ALPHABET[time % 32] + out;
    time = Math.floor(time / 32);
  }
  for (const digit of last) out += ALPHABET[digit];
  return `${prefix}_${out}`;
}

/** Adds one to the random part; answers whether there was room for it. */
function increment(): boolean {
  for (let i = last.length - 1; i >= 0; i--) {
    if (last[i]! < 31) {
      last[i]!++;
      return true;
    }
    last[i] = 0;
  }
  return false;
}

/** Whether `text` looks like an id of that kind. */
export function isId(prefix: IdPrefix, text: string): boolean {
  return new RegExp(`^${prefix}_[0-9a-hjkmnp-tv-z]{26}$`).test(text);
}
