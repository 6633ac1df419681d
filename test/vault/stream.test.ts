import { randomBytes } from 'node:crypto';
import { beforeAll, describe, expect, test } from 'vitest';
import { Vault } from '../../src/vault/vault.js';

const PIECE = 64 * 1024;
const SEALED_PIECE = PIECE + 16;
const place = { scope: 'usr_1', name: 'snp_1', version: 1 };
let vault: Vault;
let dataKey: Buffer;
let key: Buffer;

beforeAll(async () => {
  vault = await Vault.open({ masterKey: randomBytes(32) });
  dataKey = vault.newDataKey('usr_1');
  key = vault.newStreamKey(dataKey, place);
});

async function* inParts(bytes: Buffer, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}
async function gathered(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of source) parts.push(Buffer.from(part));
  return Buffer.concat(parts);
}
const seal = (plain: Buffer, size = 10_000) => gathered(vault.sealStream(dataKey, place, key, inParts(plain, size)));
const open = (sealed: Buffer, at = place, size = 7_777) => gathered(vault.openStream(dataKey, at, key, inParts(sealed, size)));

describe('a sealed stream', () => {
  test.each([0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 5])('of %i bytes opens to what it was', async (length) => {
    const plain = randomBytes(length);
    const sealed = await seal(plain);
    expect(sealed.length).toBe(1 + length + 16 * (Math.floor(length / PIECE) + 1));
    expect((await open(sealed)).equals(plain)).toBe(true);
  });

  test('that was altered, cut short, lengthened or put together anew does not open', async () => {
    const sealed = await seal(randomBytes(3 * PIECE + 5));
    const pieces = [0, 1, 2].map((i) => sealed.subarray(1 + i * SEALED_PIECE, 1 + (i + 1) * SEALED_PIECE));
    const [head, last] = [sealed.subarray(0, 1), sealed.subarray(1 + 3 * SEALED_PIECE)];
    const flipped = Buffer.from(sealed);
    flipped[PIECE]! ^= 1;
    const wrong: Record<string, Buffer> = {
      flipped,
      'cut within a piece': sealed.subarray(0, -1),
      'cut after a piece': sealed.subarray(0, 1 + 2 * SEALED_PIECE),
      'without its last piece': sealed.subarray(0, 1 + 3 * SEALED_PIECE),
      'with a byte more': Buffer.concat([sealed, Buffer.of(0)]),
      'two pieces changed over': Buffer.concat([head, pieces[1]!, pieces[0]!, pieces[2]!, last]),
      'a piece left out': Buffer.concat([head, pieces[0]!, pieces[2]!, last]),
      'a piece twice': Buffer.concat([head, pieces[0]!, pieces[0]!, pieces[1]!, pieces[2]!, last]),
      'nothing at all': Buffer.alloc(0),
      'something else': Buffer.from('x'),
    };
    for (const [what, bytes] of Object.entries(wrong))
      await expect(open(bytes), what).rejects.toMatchObject({ name: 'VaultError' });
  });

  test('opens for its own place and user alone', async () => {
    const sealed = await seal(Buffer.from('mine'));
    await expect(open(sealed, { ...place, name: 'snp_2' })).rejects.toMatchObject({ name: 'VaultError' });
    const other = vault.newDataKey('usr_2');
    await expect(gathered(vault.openStream(other, place, key, inParts(sealed, 100)))).rejects.toMatchObject({
      name: 'VaultError',
    });
  });
});
