import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { SnapshotFiles, TakenOver } from '../../src/domains/snapshots/snapshot-files.js';

const USER = 'usr_a';
let dir: string;
let files: SnapshotFiles;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'sf-'));
  files = new SnapshotFiles(dir);
});
afterAll(() => rm(dir, { recursive: true }));

const idOf = (letter: string) => `snp_${letter.repeat(26)}`;
const write = (id: string, text: string) =>
  files.write(
    USER,
    id,
    (async function* () {
      yield Buffer.from(text);
    })(),
  );

async function textOf(id: string): Promise<string> {
  let text = '';
  for await (const piece of files.read(USER, id)) text += String(piece);
  return text;
}

test('of two that write the same file the later one has it; the earlier one is told, and leaves what is in its place alone', async () => {
  const id = idOf('a');
  const early = await write(id, 'early');
  const late = await write(id, 'late');
  await late.keep();
  await expect(early.keep()).rejects.toBeInstanceOf(TakenOver);
  await early.discard();
  expect(await textOf(id)).toBe('late');
  expect(await readdir(join(dir, USER))).toEqual([`${id}.snapshot`]);
});

test('whoever begins a file anew takes nothing away that is in its place by now', async () => {
  const id = idOf('b');
  await (await write(id, 'ready')).keep();
  const again = await write(id, 'again');
  expect(await textOf(id)).toBe('ready');
  await again.discard();
  expect(await textOf(id)).toBe('ready');
  await files.remove(USER, id);
  expect(await files.has(USER, id)).toBe(false);
});
