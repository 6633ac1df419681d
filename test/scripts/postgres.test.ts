import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { run, script, type Ended } from './script.js';

let dir: string;
let up: () => Promise<Ended>;

beforeAll(async () => {
  dir = join(await mkdtemp(join(tmpdir(), 'berth-pg-')), 'with a space');
  // The server may run as another user, who has to reach the folder.
  await run('chmod', ['755', join(dir, '..')]);
  up = () => script('postgres', ['up', dir]);
});
afterAll(async () => {
  await script('postgres', ['down', dir]);
  await rm(join(dir, '..'), { recursive: true, force: true });
});

const ask = (url: string, sql: string): Promise<Ended> => run('psql', ['-X', '-A', '-t', '-c', sql, url]);

test('up starts a private server once, and its URL works', async () => {
  const first = await up();
  expect(first).toMatchObject({ code: 0, stdout: expect.stringMatching(/^postgresql:\/\/berth@localhost\/berth\?host=/) });
  expect((await up()).stdout).toBe(first.stdout);
  expect(await ask(first.stdout, 'create table kept (a int); select current_database()')).toMatchObject({
    code: 0,
    stdout: expect.stringContaining('berth'),
  });
});

test('what was written is there after a SIGKILL and another up', async () => {
  const postmaster = Number((await readFile(join(dir, 'data/postmaster.pid'), 'utf8')).split('\n')[0]);
  process.kill(postmaster, 'SIGKILL');
  const again = await up();
  expect(again.code).toBe(0);
  expect(await ask(again.stdout, 'select count(*) from kept')).toMatchObject({ code: 0, stdout: '0' });
});

test('down stops it, and a second down has nothing to do', async () => {
  const { stdout: url } = await up();
  expect(await script('postgres', ['down', dir])).toMatchObject({ code: 0, stderr: expect.stringContaining('stopped') });
  expect((await ask(url, 'select 1')).code).not.toBe(0);
  expect(await script('postgres', ['down', dir])).toMatchObject({ code: 0, stderr: expect.stringContaining('nothing to stop') });
});
