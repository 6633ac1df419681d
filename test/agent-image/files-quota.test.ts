import { spawnSync } from 'node:child_process';
import { linkSync, mkdtempSync, readFileSync, rmSync, readdirSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { tarOf, zipOf } from './archive-fixtures.js';
import { FilesFixture, readFileAnswer } from './files-client.js';
import { until } from './fixture.js';

const MB = 1024 * 1024;

let files: FilesFixture;
let base: number;

beforeAll(async () => {
  files = await FilesFixture.start();
});
beforeEach(async () => {
  for (const name of readdirSync(files.inside())) rmSync(files.inside(name), { recursive: true, force: true });
  base = await used();
});
afterAll(() => files.close());

const quota = (bytes: number) => ({ 'x-berth-quota': String(base + bytes) });
const used = async (): Promise<number> => (await files.ask('GET', 'disk?fresh=true')).json.bytes;

test('the disk is counted as it is allocated, hard links once', async () => {
  writeFileSync(files.inside('a'), Buffer.alloc(3 * MB, 1));
  writeFileSync(files.inside('hole'), '');
  truncateSync(files.inside('hole'), 1024 * MB);
  const { json } = await files.ask('GET', 'disk?fresh=true');
  expect(json).toMatchObject({ complete: true, files: expect.any(Number) });
  expect(json.bytes - base).toBeGreaterThanOrEqual(3 * MB);
  expect(json.bytes - base).toBeLessThan(3.5 * MB);
  linkSync(files.inside('a'), files.inside('a2'));
  expect((await used()) - json.bytes).toBeLessThan(MB);
});

test('a body that would pass the quota is cut with figures, and leaves nothing', async () => {
  const refused = await files.put('big', Buffer.alloc(3 * MB), quota(2 * MB));
  expect(refused).toMatchObject({ status: 413, json: { error: { code: 'quota' }, limit: base + 2 * MB } });
  expect(refused.json.used).toBeLessThan(base + MB);
  expect(readdirSync(files.inside())).toEqual([]);
  expect(readdirSync(join(files.dataDir, '.berth/staging'))).toEqual([]);
  expect((await files.put('small', Buffer.alloc(MB), quota(2 * MB))).status).toBe(201);
});

test('one that announces its size is refused before it is sent, one that does not as soon as it passes', async () => {
  const announced = await files.upload('files/x', { ...quota(MB), 'content-length': String(900 * MB) });
  expect((await readFileAnswer(announced)).status).toBe(413);
  const silent = await files.upload('files/x', quota(MB));
  let sent = 0;
  const send = () => {
    while (!silent.destroyed && sent < 100 * MB) {
      sent += 65536;
      if (!silent.write(Buffer.alloc(65536, 1))) return void silent.once('drain', send);
    }
  };
  send();
  expect((await readFileAnswer(silent)).status).toBe(413);
  expect(sent).toBeLessThan(10 * MB);
  expect(readdirSync(join(files.dataDir, '.berth/staging'))).toEqual([]);
});

test('what a file replaces is given back, and what is deleted too', async () => {
  expect((await files.put('f', Buffer.alloc(3 * MB, 1), quota(4 * MB))).status).toBe(201);
  expect((await files.put('f', Buffer.alloc(3 * MB, 2), quota(4 * MB))).status).toBe(200);
  expect((await files.put('g', Buffer.alloc(3 * MB, 1), quota(4 * MB))).status).toBe(413);
  await files.ask('DELETE', 'files/f');
  expect((await files.put('g', Buffer.alloc(3 * MB, 1), quota(4 * MB))).status).toBe(201);
});

test('what the agent frees counts without waiting for the next count', async () => {
  writeFileSync(files.inside('theirs'), Buffer.alloc(4 * MB, 1));
  expect(await used()).toBeGreaterThan(base + 3 * MB);
  expect((await files.put('mine', Buffer.alloc(2 * MB), quota(5 * MB))).status).toBe(413);
  rmSync(files.inside('theirs'));
  await until('there is room again', async () => (await files.put('mine', Buffer.alloc(2 * MB), quota(5 * MB))).status === 201);
});

test('many uploads at once share the quota', async () => {
  const answers = await Promise.all(
    Array.from({ length: 8 }, (_, i) => files.put(`p${i}`, Buffer.alloc(MB, i), quota(3.5 * MB))),
  );
  expect(answers.filter(({ status }) => status === 201).length).toBeLessThanOrEqual(3);
  expect(answers.every(({ status }) => status === 201 || status === 413)).toBe(true);
  const total = readdirSync(files.inside()).reduce((sum, name) => sum + statSync(files.inside(name)).size, 0);
  expect(total).toBeLessThanOrEqual(3 * MB);
});

test('what is no quota is refused', async () => {
  expect(await files.put('x', 'y', { 'x-berth-quota': '-1' })).toMatchObject({
    status: 400,
    json: { error: { code: 'bad_request' } },
  });
});

test('a full disk is told as such, and nothing half-written is left', async ({ skip }) => {
  const small = mkdtempSync(join(tmpdir(), 'fq-'));
  // Whoever may not mount a file system of 8 MB has this run elsewhere.
  const { status } = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', small]);
  if (status !== 0) return skip();
  const full = await FilesFixture.start({ BERTH_DATA_DIR: small });
  const workspace = join(small, 'workspaces/a');
  try {
    await full.put('kept', 'before');
    for (const [method, path, body] of [
      ['PUT', 'files/kept', Buffer.alloc(20 * MB, 1)],
      [
        'PUT',
        'archive?format=tar',
        tarOf([
          { name: 'a', body: 'x' },
          { name: 'b', body: Buffer.alloc(20 * MB, 1) },
        ]),
      ],
      ['PUT', 'archive?format=zip', await zipOf([{ name: 'a', body: Buffer.alloc(20 * MB, 1) }])],
    ] as const)
      expect(await full.ask(method, path, body)).toMatchObject({ status: 507, json: { error: { code: 'disk_full' } } });
    expect(readdirSync(workspace)).toEqual(['kept']);
    expect(readFileSync(join(workspace, 'kept'), 'utf8')).toBe('before');
    for (const folder of ['staging', 'trash']) expect(readdirSync(join(small, '.berth', folder))).toEqual([]);
    expect((await full.put('fits', Buffer.alloc(5 * MB, 1))).status).toBe(201);
    expect((await full.ask('DELETE', 'files/fits')).status).toBe(204);
    expect((await full.put('again', Buffer.alloc(5 * MB, 1))).status).toBe(201);
  } finally {
    await full.close();
    spawnSync('umount', ['-l', small]);
    rmSync(small, { recursive: true, force: true });
  }
});
