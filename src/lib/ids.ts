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

/**
 * A new id such as `usr_01kb…`: the prefix, then 26 lower-case Crockford base32 characters laid out as a ULID
 * (48 bits of milliseconds, 80 random bits; https://github.com/ulid/spec), so that ids sort by the time they were made.
 */
export function newId(prefix: IdPrefix, nowMs: number = Date.now()): string {
  let out = '';
  let time = nowMs;
  for (let i = 0; i < 10; i++) {
    out = ALPHABET[time % 32] + out;
    time = Math.floor(time / 32);
  }
  for (const byte of takeRandom(16)) out += ALPHABET[byte & 31];
  return `${prefix}_${out}`;
}

/** Whether `text` looks like an id of that kind. */
export function isId(prefix: IdPrefix, text: string): boolean {
  return new RegExp(`^${prefix}_[0-9a-hjkmnp-tv-z]{26}$`).test(text);
}
