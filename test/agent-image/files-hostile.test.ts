import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { FilesFixture, readFileAnswer } from './files-client.js';
import { until } from './fixture.js';

// The agent has a shell in the same folders and the same uid. What it plants there must not make the gateway read, write, delete or
// wait anywhere else.

let files: FilesFixture;
let outside: string;

beforeAll(async () => {
  files = await FilesFixture.start();
  outside = mkdtempSync(join(tmpdir(), 'fo-'));
});
beforeEach(() => {
  for (const name of readdirSync(files.inside())) rmSync(files.inside(name), { recursive: true, force: true });
  rmSync(outside, { recursive: true, force: true });
  mkdirSync(join(outside, 'sub'), { recursive: true });
  writeFileSync(join(outside, 'secret'), 'of another');
  writeFileSync(join(outside, 'sub/secret'), 'of another');
});
afterAll(async () => {
  await files.close();
  rmSync(outside, { recursive: true, force: true });
});

const outsideAsItWas = () => {
  expect(execFileSync('find', ['.', '-type', 'f'], { cwd: outside, encoding: 'utf8' }).trim().split('\n').sort()).toEqual([
    './secret',
    './sub/secret',
  ]);
  expect(readFileSync(join(outside, 'secret'), 'utf8')).toBe('of another');
};

describe('a link that leads out', () => {
  const targets: [string, () => string][] = [
    ['a file of the system', () => '/etc/passwd'],
    ["the instance's token", () => join(files.fixture.folder.dir, 'token')],
    ["a sibling's workspace", () => '../b'],
    ["a sibling's workspace by its whole path", () => join(files.dataDir, 'workspaces/b')],
    ['the root', () => '/'],
    ['another folder', () => outside],
    ['the folder above', () => '..'],
    ['a descriptor of the gateway', () => '/proc/self/fd/1'],
    ['a path that comes back', () => `../../workspaces/../workspaces/a`],
  ];
  test.each(targets)('to %s is not followed, in no place and by no call', async (_what, target) => {
    mkdirSync(files.inside('d'));
    symlinkSync(target(), files.inside('link'));
    const calls: [string, string, unknown?][] = [
      ['GET', 'files/link'],
      ['HEAD', 'files/link'],
      ['GET', 'files/link/secret'],
      ['PUT', 'files/link', Buffer.from('x')],
      ['PUT', 'files/link/x', Buffer.from('x')],
      ['PUT', 'files/link/sub/x', Buffer.from('x')],
      ['DELETE', 'files/link/secret'],
      ['DELETE', 'files/link/sub?recursive=true'],
      ['GET', 'list?path=link'],
      ['GET', 'list?path=link/sub'],
      ['POST', 'folder', { path: 'link/made' }],
      ['POST', 'move', { from: 'link/secret', to: 'mine' }],
      ['POST', 'move', { from: 'd', to: 'link/d' }],
    ];
    for (const [method, path, body] of calls) {
      const answer = await files.ask(method, path, body);
      expect([method, path, answer.status]).toEqual([method, path, 400]);
      if (method !== 'HEAD')
        expect(answer.json.error).toEqual({
          message: 'The path leads out of the workspace.',
          type: 'invalid_request_error',
          code: 'bad_path',
        });
    }
    expect(await files.list({ recursive: 'true' })).toMatchObject([{ path: 'd' }, { path: 'link', kind: 'link', size: 0 }]);
    outsideAsItWas();
    expect(readdirSync(join(files.dataDir, 'workspaces/b'))).toEqual([]);
  });

  test('is itself what is moved and deleted', async () => {
    symlinkSync(outside, files.inside('link'));
    expect(await files.ask('POST', 'move', { from: 'link', to: 'd/link' })).toMatchObject({
      status: 201,
      json: { kind: 'link' },
    });
    expect((await files.ask('DELETE', 'files/d?recursive=true')).status).toBe(204);
    symlinkSync(join(outside, 'secret'), files.inside('link'));
    expect((await files.ask('DELETE', 'files/link')).status).toBe(204);
    expect(readdirSync(files.inside())).toEqual([]);
    outsideAsItWas();
  });
});

describe('a link that stays inside', () => {
  test('is followed, to read and to write what it stands for', async () => {
    await files.put('real/deep/file', 'one');
    symlinkSync('real/deep', files.inside('short'));
    symlinkSync('../short/file', files.inside('real/up'));
    symlinkSync(files.inside('real'), files.inside('whole'));
    for (const path of ['short/file', 'real/up', 'whole/deep/file', 'whole/up']) expect((await files.get(path)).text).toBe('one');
    expect((await files.list({ path: 'short' })).map(({ path }) => path)).toEqual(['short/file']);
    const { etag } = (await files.get('real/deep/file')).headers;
    expect((await files.put('whole/up', 'two', { 'if-match': etag })).status).toBe(200);
    expect(readFileSync(files.inside('real/deep/file'), 'utf8')).toBe('two');
    expect((await files.put('short/new', 'x')).status).toBe(201);
    expect(existsSync(files.inside('real/deep/new'))).toBe(true);
  });

  test('in a loop, or in too long a chain, is an error', async () => {
    symlinkSync('loop2', files.inside('loop1'));
    symlinkSync('loop1', files.inside('loop2'));
    symlinkSync('self/self', files.inside('self'));
    for (let i = 0; i < 50; i++) symlinkSync(`chain${i + 1}`, files.inside(`chain${i}`));
    symlinkSync('d/'.repeat(2000), files.inside('long'));
    for (const path of ['loop1', 'self', 'self/x', 'chain0'])
      for (const method of ['GET', 'PUT'])
        expect(await files.ask(method, `files/${path}`, method === 'PUT' ? Buffer.from('x') : undefined)).toMatchObject({
          status: 400,
          json: { error: { code: 'bad_path' } },
        });
    expect((await files.put('long/x', 'x')).status).toBe(400);
  });
});

describe('what is no file', () => {
  test('never makes a call wait', async () => {
    execFileSync('mkfifo', [files.inside('pipe')]);
    const socket = createServer().listen(files.inside('sock'));
    await once(socket, 'listening');
    try {
      for (const path of ['pipe', 'sock'])
        for (const method of ['GET', 'HEAD']) {
          const answer = await files.ask(method, `files/${path}`);
          expect(answer.status).toBe(409);
          if (method === 'GET') expect(answer.json.error.code).toBe('special');
        }
      expect(await files.get('pipe/x')).toMatchObject({ status: 409, json: { error: { code: 'not_folder' } } });
      expect((await files.put('pipe', 'now a file')).status).toBe(200);
      expect((await files.get('pipe')).text).toBe('now a file');
      expect((await files.ask('DELETE', 'files/sock')).status).toBe(204);
    } finally {
      socket.close();
    }
  });
});

test('a second name of a file elsewhere is not written through', async () => {
  writeFileSync(join(files.dataDir, 'workspaces/b/theirs'), 'theirs');
  linkSync(join(files.dataDir, 'workspaces/b/theirs'), files.inside('mine'));
  await files.put('mine', 'changed');
  expect(readFileSync(join(files.dataDir, 'workspaces/b/theirs'), 'utf8')).toBe('theirs');
  rmSync(join(files.dataDir, 'workspaces/b/theirs'));
});

test.each(['workspaces/a', 'workspaces', '.berth/staging', '.berth/trash', '.berth'])(
  'a link in the place of %s itself is not followed',
  async (name) => {
    await files.put('x', 'y');
    const path = join(files.dataDir, name);
    execFileSync('mv', [path, `${path}.away`]);
    symlinkSync(outside, path);
    try {
      await files.put('secret', 'mine');
      await files.ask('DELETE', 'files/secret');
      await files.ask('DELETE', 'files/sub?recursive=true');
      expect((await files.get('sub/secret')).text).not.toContain('of another');
      outsideAsItWas();
    } finally {
      rmSync(path);
      execFileSync('mv', [`${path}.away`, path]);
    }
    expect((await files.put('x', 'y')).status).toBe(200);
  },
);

test('a folder that was moved out while something is uploaded into it gets nothing', async () => {
  await files.put('d/x', 'y');
  symlinkSync('d', files.inside('to'));
  const stream = await files.upload('files/to/new');
  stream.write('half of it, ');
  await until('it is staged', () => readdirSync(join(files.dataDir, '.berth/staging')).length === 1);
  execFileSync('mv', [files.inside('d'), join(outside, 'd')]);
  symlinkSync(join(outside, 'd'), files.inside('d'));
  stream.end('and the rest');
  expect(await readFileAnswer(stream)).toMatchObject({ status: 400, json: { error: { code: 'bad_path' } } });
  expect(readdirSync(join(outside, 'd'))).toEqual(['x']);
  rmSync(join(outside, 'd'), { recursive: true });
});

test('folders that turn into links and back while they are walked lead nowhere else', async () => {
  mkdirSync(files.inside('d/sub'), { recursive: true });
  writeFileSync(files.inside('d/secret'), 'mine');
  writeFileSync(files.inside('d/sub/secret'), 'mine');
  const swap = `const fs = require('fs'), tries = (work) => { try { work(); } catch {} };
    for (;;) {
      tries(() => fs.rmSync('t', { recursive: true, force: true }));
      tries(() => fs.renameSync('d', 't'));
      tries(() => fs.rmSync('d', { recursive: true, force: true }));
      tries(() => fs.symlinkSync(${JSON.stringify(outside)}, 'd'));
      tries(() => fs.unlinkSync('d'));
      tries(() => fs.renameSync('t', 'd'));
    }`;
  const swapper = spawn(process.execPath, ['-e', swap], { cwd: files.inside(), stdio: 'ignore' });
  const outcomes = new Map<string, number>();
  try {
    const end = performance.now() + 1500;
    for (let i = 0; performance.now() < end; i++) {
      const answers = await Promise.all([
        files.get('d/sub/secret'),
        files.get('d/secret'),
        files.put(`d/sub/new${i % 7}`, 'mine'),
        files.ask('GET', 'list?path=d/sub&recursive=true'),
        files.ask('POST', 'folder', { path: `d/made${i % 7}` }),
        files.ask('DELETE', `files/d/sub/new${i % 5}`),
        files.ask('POST', 'move', { from: 'd/secret', to: 'd/sub/secret2', overwrite: true }),
        files.ask('POST', 'move', { from: 'd/sub/secret2', to: 'd/secret', overwrite: true }),
      ]);
      for (const { status, text } of answers) {
        outcomes.set(String(status), (outcomes.get(String(status)) ?? 0) + 1);
        expect(text).not.toContain('of another');
        expect(status).not.toBe(500);
      }
    }
  } finally {
    swapper.kill('SIGKILL');
    await once(swapper, 'exit');
  }
  outsideAsItWas();
  expect(readdirSync(join(outside, 'sub'))).toEqual(['secret']);
  // Both ways were met, or nothing was tried.
  expect(outcomes.get('200')).toBeGreaterThan(10);
  expect(outcomes.get('400')).toBeGreaterThan(10);
});
