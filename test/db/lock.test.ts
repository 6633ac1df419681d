import { once } from 'node:events';
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, unlink, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { FolderLockedError, lockFolder } from '../../src/db/lock.js';
import { createLog } from '../../src/lib/log.js';

const log = createLog('silent');
let dir: string;
let path: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'berth-lock-'));
  path = join(dir, 'pg.lock');
});
afterEach(() => rm(dir, { recursive: true }));

type Fields = Record<string, unknown>;
const file = async (): Promise<string> => join(path, (await readdir(path))[0]!);
const read = async (): Promise<Fields> => JSON.parse(await readFile(await file(), 'utf8')) as Fields;

/** Leaves a lock as if its holder differed in these fields from this process. */
async function leave(changes: Fields): Promise<void> {
  const lock = await lockFolder(path, log);
  const fields = await read();
  await lock.release();
  await mkdir(path);
  await writeFile(join(path, 'old'), JSON.stringify({ ...fields, nonce: 'old', ...changes }));
}

async function pidOfTheDead(): Promise<number> {
  const child = spawn('true');
  await once(child, 'exit');
  return child.pid!;
}

test('is held until it is released, and leaves nothing behind', async () => {
  const lock = await lockFolder(path, log);
  await expect(lockFolder(path, log)).rejects.toThrow(FolderLockedError);
  await expect(lockFolder(path, log)).rejects.toThrow(`in use by process ${process.pid}`);
  await lock.release();
  await lock.release();
  expect(await readdir(dir)).toEqual([]);
});

test('is taken over from a process that is gone', async () => {
  await leave({ pid: await pidOfTheDead() });
  const lock = await lockFolder(path, log);
  expect((await read())['pid']).toBe(process.pid);
  await lock.release();
  expect(await readdir(dir)).toEqual([]);
});

test('is taken over when its pid is used again by another process', async () => {
  await leave({ startTime: '1' });
  await (await lockFolder(path, log)).release();
});

test('is taken over from before a reboot once nobody shows life', async () => {
  await leave({ space: 'another boot' });
  await (await lockFolder(path, log, { patienceMs: 300 })).release();
});

test('is left to a holder in another container that shows life', async () => {
  await leave({ space: 'another container', pid: await pidOfTheDead() });
  const alive = setInterval(() => void utimes(join(path, 'old'), new Date(), new Date()), 50);
  await expect(lockFolder(path, log, { patienceMs: 2_000 })).rejects.toThrow(FolderLockedError);
  clearInterval(alive);
});

test('shows life while it is held', async () => {
  const lock = await lockFolder(path, log, { beatMs: 20 });
  const held = { ...(await read()), space: 'as seen from another container' };
  await writeFile(await file(), JSON.stringify(held));
  await expect(lockFolder(path, log, { patienceMs: 2_000 })).rejects.toThrow(FolderLockedError);
  await lock.release();
});

test('cut short by a power cut is taken over once nobody shows life', async () => {
  await mkdir(path);
  await writeFile(join(path, 'old'), '{"pid":1');
  await (await lockFolder(path, log, { patienceMs: 300 })).release();
});

test('is taken where a starter was killed half-way', async () => {
  await mkdir(path);
  await mkdir(`${path}.half`);
  await (await lockFolder(path, log)).release();
  expect(await readdir(dir)).toEqual([]);
});

test('goes to exactly one of many who find it stale', async () => {
  const pid = await pidOfTheDead();
  for (let round = 0; round < 10; round++) {
    await leave({ pid });
    const tries = await Promise.allSettled(Array.from({ length: 20 }, () => lockFolder(path, log)));
    const won = tries.filter((attempt) => attempt.status === 'fulfilled');
    expect(won).toHaveLength(1);
    for (const attempt of tries) if (attempt.status === 'rejected') expect(attempt.reason).toBeInstanceOf(FolderLockedError);
    await won[0]!.value.release();
    expect(await readdir(dir)).toEqual([]);
  }
});

test('is never released for someone else', async () => {
  const lock = await lockFolder(path, log, { beatMs: 60_000 });
  await unlink(await file());
  const other = await lockFolder(path, log);
  await lock.release();
  await expect(lockFolder(path, log)).rejects.toThrow(FolderLockedError);
  await other.release();
});

test('tells its holder when it was lost', async () => {
  const onLost = vi.fn();
  await lockFolder(path, log, { beatMs: 20, onLost });
  await unlink(await file());
  await vi.waitFor(() => expect(onLost).toHaveBeenCalledExactlyOnceWith(expect.any(FolderLockedError)));
});
