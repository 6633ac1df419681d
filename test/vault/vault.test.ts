import { randomBytes } from 'node:crypto';
import { beforeAll, describe, expect, test } from 'vitest';
import { Vault, wipe } from '../../src/vault/vault.js';

const master = randomBytes(32);
const plain = Buffer.from('sk-live-0123456789');
const place = { scope: 'usr_a', name: 'OPENAI_API_KEY', version: 3 };
let vault: Vault;

beforeAll(async () => {
  vault = await Vault.open({ masterKey: master });
});

function failure(reason: string) {
  return expect.objectContaining({ name: 'VaultError', reason });
}

describe('values', () => {
  test('open where they were sealed, and only sealed bytes leave', () => {
    const dataKey = vault.newDataKey('usr_a');
    const sealed = vault.seal(dataKey, place, plain);
    expect(vault.open(dataKey, place, sealed)).toEqual(plain);
    expect(sealed.includes(plain)).toBe(false);
    expect(vault.open(dataKey, place, vault.seal(dataKey, place, Buffer.alloc(0)))).toEqual(Buffer.alloc(0));
  });

  test('are sealed differently each time', () => {
    const dataKey = vault.newDataKey('usr_a');
    expect(vault.seal(dataKey, place, plain)).not.toEqual(vault.seal(dataKey, place, plain));
  });

  test.each([
    ['another scope', { ...place, scope: 'agt_b' }],
    ['another name', { ...place, name: 'OPENAI_API_KEX' }],
    ['an older version', { ...place, version: 2 }],
    ['parts shifted from scope to name', { ...place, scope: 'usr_aO', name: 'PENAI_API_KEY' }],
    ['parts shifted from name to version', { ...place, name: 'OPENAI_API_KEY3', version: 0 }],
  ])('do not open in %s', (_, elsewhere) => {
    const dataKey = vault.newDataKey('usr_a');
    const sealed = vault.seal(dataKey, place, plain);
    expect(() => vault.open(dataKey, elsewhere, sealed)).toThrow(failure('tampered'));
  });

  test('do not open with any single byte changed or cut off', () => {
    const dataKey = vault.newDataKey('usr_a');
    const sealed = vault.seal(dataKey, place, plain);
    for (let i = 0; i < sealed.length; i++) {
      const changed = Buffer.from(sealed);
      changed[i]! ^= 1;
      expect(() => vault.open(dataKey, place, changed), `byte ${i}`).toThrow(expect.objectContaining({ name: 'VaultError' }));
      expect(() => vault.open(dataKey, place, sealed.subarray(0, i)), `${i} bytes`).toThrow(
        expect.objectContaining({ name: 'VaultError' }),
      );
    }
  });

  test('do not open under the data key of another user, nor under a new one of the same', () => {
    const sealed = vault.seal(vault.newDataKey('usr_a'), place, plain);
    expect(() => vault.open(vault.newDataKey('usr_b'), place, sealed)).toThrow(failure('wrong_key'));
    expect(() => vault.open(vault.newDataKey('usr_a'), place, sealed)).toThrow(failure('wrong_key'));
  });

  test('are refused with a place that cannot be told from another', () => {
    const dataKey = vault.newDataKey('usr_a');
    expect(() => vault.seal(dataKey, { ...place, name: '\ud800' }, plain)).toThrow(failure('malformed'));
    expect(() => vault.seal(dataKey, { ...place, version: 1.5 }, plain)).toThrow(failure('malformed'));
    expect(() => vault.seal(dataKey, { ...place, version: Number.NaN }, plain)).toThrow(failure('malformed'));
  });

  test('never show in an error', () => {
    const dataKey = vault.newDataKey('usr_a');
    const sealed = vault.seal(dataKey, place, plain);
    sealed[sealed.length - 1]! ^= 1;
    try {
      vault.open(dataKey, place, sealed);
      expect.unreachable();
    } catch (error) {
      expect(`${(error as Error).stack} ${JSON.stringify(error)}`).not.toContain('sk-live');
      expect((error as Error).cause).toBeUndefined();
    }
  });
});

describe('data keys', () => {
  test('know their user, and do not open with any byte changed', () => {
    const dataKey = vault.newDataKey('usr_a');
    expect(vault.userOf(dataKey)).toBe('usr_a');
    for (let i = 0; i < dataKey.length; i++) {
      const changed = Buffer.from(dataKey);
      changed[i]! ^= 1;
      expect(() => vault.userOf(changed), `byte ${i}`).toThrow(expect.objectContaining({ name: 'VaultError' }));
    }
  });

  test('stay usable when more are in use than are kept unwrapped', () => {
    const all = Array.from({ length: 300 }, (_, i) => vault.newDataKey(`usr_${i}`));
    const sealed = all.map((dataKey) => vault.seal(dataKey, place, plain));
    for (const [i, dataKey] of all.entries()) expect(vault.open(dataKey, place, sealed[i]!)).toEqual(plain);
  });

  test('can be forgotten, and are unwrapped again when asked for', () => {
    const dataKey = vault.newDataKey('usr_a');
    const sealed = vault.seal(dataKey, place, plain);
    vault.forget(dataKey);
    vault.forget(dataKey);
    expect(vault.open(dataKey, place, sealed)).toEqual(plain);
  });

  test('of every length of user id that fits', () => {
    for (const id of ['', 'u', 'ü'.repeat(127)]) expect(vault.userOf(vault.newDataKey(id))).toBe(id);
    expect(() => vault.newDataKey('u'.repeat(256))).toThrow(failure('malformed'));
  });
});

describe('installation values', () => {
  test('open in their place only', () => {
    const sealed = vault.sealInstallation({ name: 'pepper', version: 1 }, plain);
    expect(vault.openInstallation({ name: 'pepper', version: 1 }, sealed)).toEqual(plain);
    expect(() => vault.openInstallation({ name: 'pepper', version: 2 }, sealed)).toThrow(failure('tampered'));
    expect(() => vault.openInstallation({ name: 'salt', version: 1 }, sealed)).toThrow(failure('tampered'));
    expect(() => vault.open(vault.newDataKey('usr_a'), place, sealed)).toThrow(failure('malformed'));
  });
});

describe('the master key', () => {
  test('is told from a wrong one by the stored check', async () => {
    const stored = vault.keyCheck();
    expect((await Vault.open({ masterKey: master })).verifyKeyCheck(stored)).toBe('current');
    const wrong = await Vault.open({ masterKey: randomBytes(32) });
    expect(() => wrong.verifyKeyCheck(stored)).toThrow(failure('wrong_key'));
    expect(() => wrong.verifyKeyCheck(stored)).toThrow(/MASTER_KEY_PREVIOUS/);
    expect(() => vault.verifyKeyCheck(Buffer.alloc(0))).toThrow(failure('malformed'));
  });

  test('when wrong opens nothing', async () => {
    const dataKey = vault.newDataKey('usr_a');
    const wrong = await Vault.open({ masterKey: randomBytes(32) });
    expect(() => wrong.seal(dataKey, place, plain)).toThrow(failure('wrong_key'));
    expect(() =>
      wrong.openInstallation({ name: 'pepper', version: 1 }, vault.sealInstallation({ name: 'pepper', version: 1 }, plain)),
    ).toThrow(failure('wrong_key'));
  });

  test('is changed by wrapping the data keys anew, and the values stay as they are', async () => {
    const dataKey = vault.newDataKey('usr_a');
    const sealed = vault.seal(dataKey, place, plain);
    const next = randomBytes(32);
    const changing = await Vault.open({ masterKey: next, previous: master });
    expect(changing.verifyKeyCheck(vault.keyCheck())).toBe('previous');
    expect(changing.open(dataKey, place, sealed)).toEqual(plain);
    const rewrapped = changing.rewrap(dataKey);
    expect(changing.rewrap(rewrapped)).toEqual(rewrapped);
    const changed = await Vault.open({ masterKey: next });
    expect(changed.verifyKeyCheck(changing.keyCheck())).toBe('current');
    expect(changed.open(rewrapped, place, sealed)).toEqual(plain);
    expect(() => changed.open(dataKey, place, sealed)).toThrow(failure('wrong_key'));
  });

  test('may be overwritten after the vault is open', async () => {
    const key = randomBytes(32);
    const dataKey = (await Vault.open({ masterKey: key })).newDataKey('usr_a');
    const again = Buffer.from(key);
    const opened = await Vault.open({ masterKey: again });
    wipe(again);
    expect(opened.userOf(dataKey)).toBe('usr_a');
  });

  test.each([0, 16, 31, 33, 64])('of %i bytes is refused', async (bytes) => {
    await expect(Vault.open({ masterKey: randomBytes(bytes) })).rejects.toThrow(failure('malformed'));
  });
});

// The layouts are on disk: a change to one of them must be made on purpose.
test('the layouts are the documented ones', () => {
  const dataKey = vault.newDataKey('usr_a');
  expect([dataKey[0], dataKey[9], dataKey.toString('utf8', 10, 15), dataKey.length]).toEqual([0x11, 5, 'usr_a', 15 + 24 + 48]);
  const value = vault.seal(dataKey, place, plain);
  expect([value[0], value.length]).toEqual([0x12, 1 + 8 + 24 + plain.length + 16]);
  const installation = vault.sealInstallation({ name: 'pepper', version: 1 }, plain);
  expect([installation[0], installation.length]).toEqual([0x13, 1 + 8 + 24 + plain.length + 16]);
  expect([vault.keyCheck()[0], vault.keyCheck().length]).toEqual([0x14, 33]);
});

test('what an earlier version sealed still opens', async () => {
  const old = await Vault.open({ masterKey: Buffer.from(Array.from({ length: 32 }, (_, i) => i)) });
  const hex = (text: string) => Buffer.from(text, 'hex');
  const dataKey = hex(GOLDEN.dataKey);
  expect(old.verifyKeyCheck(hex(GOLDEN.keyCheck))).toBe('current');
  expect(old.userOf(dataKey)).toBe('usr_golden');
  expect(old.open(dataKey, { scope: 'agt_x', name: 'N', version: 7 }, hex(GOLDEN.value)).toString()).toBe('golden value');
  expect(old.openInstallation({ name: 'pepper', version: 1 }, hex(GOLDEN.installation)).toString()).toBe('golden pepper');
});

const GOLDEN = {
  dataKey:
    '114997b9644947d0b60a7573725f676f6c64656eba1cf9435f17d5a1edab0bc3d90d5da482bcb2036d70c7c1fe20583f1cdb' +
    'b1021a807175c4fd888aaf42efc6b47399e883a5e6dc75b3feff4de4ba6f9a732e3937bd579d7c7e7ea5',
  value:
    '12b5436053b01cec3ce5b19d1f3afe0cfc72fcc5e70cdefc1928efb928bae13024f4139cc1f7984d5931f1d98fa7337b1a6c' +
    '7454d0e5e33309aca848db',
  installation:
    '134997b9644947d0b62d0f29ddf837777f213bfc11a7c21c12efd53e6d3bb69ec01516b29163ecfa69d5a4c794bdf38f2ff5' +
    '335e0c9dd7a56bf85199e45f',
  keyCheck: '140d8448d75b378c869074eec93b2982b0647475e1f195045e74b699534748572d',
};
