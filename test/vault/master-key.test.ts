import { randomBytes } from 'node:crypto';
import { chmod, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { parseMasterKey } from '../../src/vault/key-files.js';
import { loadOrCreateMasterKey } from '../../src/vault/master-key.js';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'berth-key-'));
});
afterEach(() => rm(dir, { recursive: true }));

const file = () => join(dir, 'master.key');

test('is made once, for its owner only, and found again', async () => {
  const first = await loadOrCreateMasterKey(dir);
  expect(first.masterKey).toHaveLength(32);
  expect(first.madeFile).toBe(file());
  expect((await stat(file())).mode & 0o777).toBe(0o600);
  const second = await loadOrCreateMasterKey(dir);
  expect(second).toEqual({ masterKey: first.masterKey, previous: undefined, madeFile: undefined });
  expect(await readdir(dir)).toEqual(['master.key']);
});

test('is the same for all who start at once', async () => {
  const all = await Promise.all(Array.from({ length: 20 }, () => loadOrCreateMasterKey(join(dir, 'new'))));
  expect(new Set(all.map(({ masterKey }) => masterKey.toString('hex'))).size).toBe(1);
  expect(all.filter(({ madeFile }) => madeFile).length).toBe(1);
  expect(await readdir(join(dir, 'new'))).toEqual(['master.key']);
});

test('comes from the environment where it is given, and then no file is made', async () => {
  const [key, old] = [randomBytes(32), randomBytes(32)];
  const loaded = await loadOrCreateMasterKey(dir, { masterKey: key.toString('base64'), masterKeyPrevious: old.toString('hex') });
  expect(loaded).toEqual({ masterKey: key, previous: old, madeFile: undefined });
  expect(await readdir(dir)).toEqual([]);
});

test.each([0o640, 0o604, 0o660, 0o666, 0o610])('is refused from a file of mode %o', async (mode) => {
  await loadOrCreateMasterKey(dir);
  await chmod(file(), mode);
  await expect(loadOrCreateMasterKey(dir)).rejects.toThrow(/mode .*chmod 600/);
});

test('is refused from a symbolic link, and from a file cut short', async () => {
  await loadOrCreateMasterKey(join(dir, 'a'));
  await symlink(join(dir, 'a', 'master.key'), file());
  await expect(loadOrCreateMasterKey(dir)).rejects.toThrow(/symbolic link/);
  await rm(file());
  await writeFile(file(), 'c2hvcnQ=', { mode: 0o600 });
  await expect(loadOrCreateMasterKey(dir)).rejects.toThrow(/32 random bytes/);
  expect(await readFile(file(), 'utf8')).toBe('c2hvcnQ=');
});

test('is read as hex, base64 and base64url, with a newline after it', () => {
  const key = randomBytes(32);
  for (const text of [
    key.toString('hex'),
    key.toString('hex').toUpperCase(),
    key.toString('base64'),
    key.toString('base64url'),
    `${key.toString('base64')}\n`,
  ]) {
    expect(parseMasterKey(text, 'MASTER_KEY')).toEqual(key);
  }
});

test.each([
  '',
  'secret',
  'a'.repeat(64),
  'A'.repeat(43),
  'é'.repeat(43),
  randomBytes(31).toString('base64'),
  randomBytes(33).toString('hex'),
])('is refused when it is no 32 random bytes, without being repeated: %j', (text) => {
  const refused = () => parseMasterKey(text, 'MASTER_KEY');
  expect(refused).toThrow(/MASTER_KEY/);
  if (text) expect(refused).not.toThrow(text);
});
