import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import type { ClientHttp2Stream } from 'node:http2';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { FilesFixture, readFileAnswer } from './files-client.js';
import { until } from './fixture.js';

let files: FilesFixture;
const staged = () => readdirSync(join(files.dataDir, '.berth/staging'));
/** However it ends. */
const closed = (stream: ClientHttp2Stream) => new Promise<void>((resolve) => void stream.once('close', resolve));

beforeAll(async () => {
  files = await FilesFixture.start();
});
beforeEach(() => {
  for (const name of readdirSync(files.inside())) rmSync(files.inside(name), { recursive: true, force: true });
});
afterAll(() => files.close());

describe('reading', () => {
  test('gives what the agent wrote, at once, with its tag and time', async () => {
    writeFileSync(files.inside('note.txt'), 'hello');
    const answer = await files.get('note.txt');
    expect(answer).toMatchObject({ status: 200, text: 'hello' });
    expect(answer.headers).toMatchObject({ 'content-length': '5', 'accept-ranges': 'bytes', 'x-berth-kind': 'file' });
    expect(answer.headers['etag']).toMatch(/^"[\w-]+"$/);
    expect(Date.parse(answer.headers['last-modified'])).toBeGreaterThan(Date.now() - 60_000);
    expect(await files.ask('HEAD', 'files/note.txt')).toMatchObject({
      status: 200,
      text: '',
      headers: { 'content-length': '5' },
    });
    expect(await files.get('note.txt', { 'if-none-match': answer.headers['etag'] })).toMatchObject({ status: 304, text: '' });
  });

  test('tells a change in place from no change, also where size and time were kept', async () => {
    writeFileSync(files.inside('x'), 'one');
    const { mtime, atime } = statSync(files.inside('x'));
    const before = (await files.get('x')).headers['etag'];
    await until('the clock of the file system has moved', async () => {
      writeFileSync(files.inside('x'), 'two');
      utimesSync(files.inside('x'), atime, mtime);
      return (await files.ask('HEAD', 'files/x')).headers['etag'] !== before;
    });
    expect(await files.get('x', { 'if-none-match': before })).toMatchObject({ status: 200, text: 'two' });
  });

  test.each([
    ['bytes=0-3', 206, '0123', 'bytes 0-3/10'],
    ['bytes=4-', 206, '456789', 'bytes 4-9/10'],
    ['bytes=-3', 206, '789', 'bytes 7-9/10'],
    ['bytes=-30', 206, '0123456789', 'bytes 0-9/10'],
    ['bytes=8-100', 206, '89', 'bytes 8-9/10'],
    ['bytes=10-', 416, undefined, 'bytes */10'],
    ['bytes=-0', 416, undefined, 'bytes */10'],
    ['bytes=5-2', 200, '0123456789', undefined],
    ['bytes=0-1,4-5', 200, '0123456789', undefined],
    ['lines=1-2', 200, '0123456789', undefined],
  ])('answers the range %s with %i', async (range, status, text, contentRange) => {
    writeFileSync(files.inside('ten'), '0123456789');
    const answer = await files.get('ten', { range });
    expect(answer.status).toBe(status);
    expect(answer.headers['content-range']).toBe(contentRange);
    if (text === undefined) expect(answer.json.error.code).toBe('range');
    else expect(answer.text).toBe(text);
  });

  test('gives the whole file where a range is of another state of it', async () => {
    writeFileSync(files.inside('ten'), '0123456789');
    const { etag } = (await files.get('ten')).headers;
    expect((await files.get('ten', { range: 'bytes=1-2', 'if-range': etag })).status).toBe(206);
    expect((await files.get('ten', { range: 'bytes=1-2', 'if-range': '"other"' })).status).toBe(200);
  });

  test('tells folders, and says what is not there', async () => {
    mkdirSync(files.inside('dir'));
    expect(await files.get('dir')).toMatchObject({ status: 409, json: { error: { code: 'is_folder' } } });
    expect(await files.ask('HEAD', 'files/dir')).toMatchObject({ status: 200, headers: { 'x-berth-kind': 'folder' } });
    expect(await files.ask('HEAD', 'files/')).toMatchObject({ status: 200, headers: { 'x-berth-kind': 'folder' } });
    expect(await files.get('dir/none')).toMatchObject({ status: 404, json: { error: { code: 'not_found' } } });
    writeFileSync(files.inside('file'), '');
    expect(await files.get('file/below')).toMatchObject({ status: 409, json: { error: { code: 'not_folder' } } });
    expect(await files.ask('GET', '../ghost/list')).toMatchObject({ status: 404 });
    expect(await files.ask('POST', 'list')).toMatchObject({ status: 405, headers: { allow: 'GET' } });
  });

  test('breaks off where a file is made shorter while it is read, and never gives a part for the whole', async () => {
    writeFileSync(files.inside('large'), Buffer.alloc(8 * 1024 * 1024, 1));
    const stream = await files.fixture.berth.open('GET', '/berth/v1/agents/a/files/large');
    await once(stream, 'response');
    truncateSync(files.inside('large'), 1024 * 1024);
    let bytes = 0;
    stream.on('data', (piece: Buffer) => (bytes += piece.length));
    await closed(stream);
    expect(bytes).toBeLessThan(8 * 1024 * 1024);
    expect(stream.rstCode).not.toBe(0);
  });
});

test('readers that go away leave nothing open', async () => {
  writeFileSync(files.inside('large'), Buffer.alloc(8 * 1024 * 1024, 1));
  const open = () => readdirSync(`/proc/${files.fixture.gateway.child.pid}/fd`).length;
  const before = open();
  for (let i = 0; i < 70; i++) {
    const stream = await files.fixture.berth.open('GET', '/berth/v1/agents/a/files/large');
    await once(stream, 'response');
    const gone = closed(stream);
    stream.close(8);
    await gone;
  }
  await until('all is closed', () => open() <= before + 2);
  expect((await files.get('large')).status).toBe(200);
});

describe('writing', () => {
  test('makes folders, answers what there is now, and the agent sees it at once', async () => {
    const made = await files.put('deep/er/note.txt', 'one');
    expect(made).toMatchObject({ status: 201, json: { path: 'deep/er/note.txt', size: 3 } });
    expect(readFileSync(files.inside('deep/er/note.txt'), 'utf8')).toBe('one');
    const again = await files.put('deep/er/note.txt', 'other');
    expect(again).toMatchObject({ status: 200, json: { size: 5 } });
    expect(again.json.etag).not.toBe(made.json.etag);
    expect((await files.get('deep/er/note.txt')).headers['etag']).toBe(again.json.etag);
    expect(statSync(files.inside('deep/er/note.txt')).mode & 0o777).toBe(0o644);
    expect(staged()).toEqual([]);
  });

  test('keeps the permissions of what it replaces, without any that give more than them', async () => {
    writeFileSync(files.inside('run.sh'), 'exit 1');
    chmodSync(files.inside('run.sh'), 0o4755);
    await files.put('run.sh', 'exit 0');
    expect(statSync(files.inside('run.sh')).mode & 0o7777).toBe(0o755);
  });

  test.each(['plain.txt', 'ünï cödé 日本 🙂.txt', 'a b', '%41', '%2e%2e', 'a\\b', '-rf', "it's", 'line\nbreak', 'e\u0301'])(
    'keeps the name %j byte for byte',
    async (name) => {
      expect((await files.put(`dir/${name}`, name)).status).toBe(201);
      expect(readdirSync(files.inside('dir'))).toEqual([name]);
      expect((await files.get(`dir/${name}`)).text).toBe(name);
      expect(await files.list({ path: 'dir' })).toMatchObject([{ path: `dir/${name}`, kind: 'file' }]);
      rmSync(files.inside('dir'), { recursive: true });
    },
  );

  test('decodes a path once, %2F too', async () => {
    await files.ask('PUT', 'files/one%2Ftwo%252Fthree', Buffer.from('x'));
    expect(readdirSync(files.inside('one'))).toEqual(['two%2Fthree']);
  });

  test.each([
    '..',
    '../b/x',
    'a/../../b',
    'a/..',
    '%2e%2e/b',
    '..%2Fb',
    '/etc/passwd',
    '%2Fetc/passwd',
    'a//b',
    './a',
    'a/./b',
    'nul%00',
    'bad%FFutf8',
    '%',
    'x'.repeat(256),
    `${'d/'.repeat(600)}f`,
  ])('refuses the path %s everywhere', async (path) => {
    for (const method of ['GET', 'PUT', 'DELETE'])
      expect(await files.ask(method, `files/${path}`, method === 'PUT' ? Buffer.from('x') : undefined)).toMatchObject({
        status: 400,
        json: { error: { code: 'bad_path' } },
      });
    if (!/%(00|FF|$)/.test(path)) {
      const plain = decodeURIComponent(path);
      expect(await files.ask('POST', 'move', { from: 'a', to: plain })).toMatchObject({
        status: 400,
        json: { error: { code: 'bad_path' } },
      });
      expect(await files.ask('GET', `list?path=${encodeURIComponent(plain)}`)).toMatchObject({ status: 400 });
    }
    expect(readdirSync(files.inside())).toEqual([]);
  });

  test('says where a file is in the way of a folder, and a folder in the way of a file', async () => {
    mkdirSync(files.inside('dir'));
    writeFileSync(files.inside('file'), 'x');
    expect(await files.put('dir', 'x')).toMatchObject({ status: 409, json: { error: { code: 'is_folder' } } });
    expect(await files.put('file/x', 'x')).toMatchObject({ status: 409, json: { error: { code: 'not_folder' } } });
    expect(await files.put('dir/', 'x')).toMatchObject({ status: 409, json: { error: { code: 'is_folder' } } });
    expect(await files.put('', 'x')).toMatchObject({ status: 409, json: { error: { code: 'is_folder' } } });
  });

  test('makes the workspace again where the agent has deleted it', async () => {
    rmSync(files.inside(), { recursive: true });
    expect(await files.list()).toEqual([]);
    rmSync(files.inside(), { recursive: true });
    expect(await files.get('x')).toMatchObject({ status: 404 });
    expect((await files.put('x', 'y')).status).toBe(201);
  });

  test('under guard happens only to the state that was meant', async () => {
    const { etag } = (await files.put('g', 'one')).json;
    expect(await files.put('g', 'x', { 'if-match': '"other"' })).toMatchObject({
      status: 412,
      json: { error: { code: 'precondition_failed' } },
    });
    expect(await files.put('g', 'x', { 'if-none-match': '*' })).toMatchObject({ status: 412 });
    expect(await files.put('none', 'x', { 'if-match': etag })).toMatchObject({ status: 412 });
    expect(await files.put('sub/none', 'x', { 'if-match': '*' })).toMatchObject({ status: 412 });
    expect(existsSync(files.inside('sub'))).toBe(false);
    expect((await files.put('g', 'two', { 'if-match': `"other", ${etag}` })).status).toBe(200);
    expect((await files.put('new', 'x', { 'if-none-match': '*' })).status).toBe(201);
    expect(await files.ask('DELETE', 'files/g', undefined, { 'if-match': etag })).toMatchObject({ status: 412 });
    expect(readFileSync(files.inside('g'), 'utf8')).toBe('two');
  });

  test.each([{ 'if-none-match': '*' }, undefined])(
    'of two guarded writers at once lets exactly one win, whole',
    async (guard) => {
      for (let round = 0; round < 5; round++) {
        const path = `race${round}`;
        const headers = guard ?? { 'if-match': (await files.put(path, 'before')).json.etag };
        const uploads = await Promise.all(
          ['1', '2', '3'].map(async (who) => ({ who, stream: await files.upload(`files/${path}`, headers) })),
        );
        for (const { who, stream } of uploads) stream.write(who.repeat(100_000));
        await until('all are writing', () => staged().length === 3);
        for (const { who, stream } of uploads) stream.end(who.repeat(100_000));
        const answers = await Promise.all(uploads.map(({ stream }) => readFileAnswer(stream)));
        const won = answers.findIndex(({ status }) => status < 300);
        expect(answers.map(({ status }) => status).sort()).toEqual([guard ? 201 : 200, 412, 412]);
        expect(readFileSync(files.inside(path), 'utf8')).toBe((uploads[won]?.who ?? '').repeat(200_000));
        expect(staged()).toEqual([]);
      }
    },
  );

  test.each<[string, (stream: ClientHttp2Stream) => void, boolean?]>([
    // Not `close(8)`: that ends the body properly first, and the reset may come too late to tell.
    ['is destroyed', (stream) => stream.destroy()],
    ['is destroyed by an error', (stream) => stream.destroy(new Error('the client went away'))],
    ['ends before the length it announced', (stream) => stream.end(), true],
  ])('that %s leaves nothing and changes nothing', async (_how, cutOff, announces = false) => {
    await files.put('cut', 'before');
    const stream = await files.upload('files/cut', announces ? { 'content-length': '5000000' } : {});
    const gone = closed(stream);
    stream.write(Buffer.alloc(1_000_000, 1));
    await until('some of it is written', () =>
      staged().some((name) => statSync(join(files.dataDir, '.berth/staging', name)).size > 0),
    );
    cutOff(stream);
    stream.resume();
    await gone;
    await until('the staged part is gone', () => staged().length === 0);
    expect(readFileSync(files.inside('cut'), 'utf8')).toBe('before');
  });

  test('by a byte at a time arrives whole', async () => {
    const stream = await files.upload('files/slow');
    for (const byte of 'a thousand little pieces '.repeat(20)) stream.write(byte);
    stream.end();
    expect((await readFileAnswer(stream)).status).toBe(201);
    expect(readFileSync(files.inside('slow'), 'utf8')).toBe('a thousand little pieces '.repeat(20));
  });
});

describe('a lost link and a killed gateway', () => {
  test('leave nothing of an upload', async () => {
    const begin = async () => {
      const stream = await files.upload('files/lost');
      stream.write(Buffer.alloc(300_000, 1));
      await until('it is staged', () => staged().length === 1);
    };
    await begin();
    const again = files.fixture.berth.nextLink();
    files.fixture.berth.session?.destroy();
    await again;
    await until('the staged part is gone', () => staged().length === 0);
    await begin();
    await files.fixture.gateway.stop('SIGKILL');
    expect(staged()).toHaveLength(1);
    const back = files.fixture.berth.nextLink();
    files.fixture.gateway.start();
    await back;
    await files.fixture.berth.configure([
      { id: 'a', incarnation: 'i1', model: 'demo/echo' },
      { id: 'b', incarnation: 'i1', model: 'demo/echo' },
    ]);
    expect(existsSync(join(files.dataDir, '.berth/staging')) ? staged() : []).toEqual([]);
    expect(readdirSync(files.inside())).toEqual([]);
    await until('it is deleted', () => readdirSync(join(files.dataDir, '.berth/trash')).length === 0);
    expect((await files.put('x', 'y')).status).toBe(201);
  });
});

describe('lists', () => {
  test('name kinds, sizes, times and tags', async () => {
    writeFileSync(files.inside('file'), 'four');
    mkdirSync(files.inside('dir'));
    symlinkSync('/etc/passwd', files.inside('link'));
    execFileSync('mkfifo', [files.inside('pipe')]);
    const { etag } = (await files.get('file')).headers;
    const entries = await files.list();
    expect(entries).toMatchObject([
      { path: 'dir', kind: 'folder', size: 0 },
      { path: 'file', kind: 'file', size: 4, etag },
      { path: 'link', kind: 'link', size: 0 },
      { path: 'pipe', kind: 'special', size: 0 },
    ]);
    expect(Date.parse(entries[0].modified)).toBeGreaterThan(Date.now() - 60_000);
    expect(await files.ask('GET', 'list?path=file')).toMatchObject({ status: 409, json: { error: { code: 'not_folder' } } });
    expect(await files.ask('GET', 'list?path=none')).toMatchObject({ status: 404 });
  });

  test('give every entry once, whatever the page size, while files come and go', async () => {
    const paths = ['a', 'a/x', 'a/x/1', 'a/x/2', 'a/y', 'a-b', 'b', 'b/1', 'c', 'd', 'd/d', 'd/d/d'];
    for (const path of paths) mkdirSync(files.inside(path), { recursive: true });
    for (const limit of ['1', '2', '3', '5', '12', '1000']) {
      const listed = (await files.list({ recursive: 'true', limit })).map(({ path }) => path as string);
      expect(listed).toEqual(['a', 'a/x', 'a/x/1', 'a/x/2', 'a/y', 'a-b', 'b', 'b/1', 'c', 'd', 'd/d', 'd/d/d']);
    }
    const first = await files.ask('GET', 'list?recursive=true&limit=3');
    rmSync(files.inside('a/x'), { recursive: true });
    mkdirSync(files.inside('a/a'));
    const next = await files.ask('GET', `list?recursive=true&limit=3&cursor=${first.json.next_cursor}`);
    expect(next.json.entries.map(({ path }: { path: string }) => path)).toEqual(['a/y', 'a-b', 'b']);
  });

  test('of a large folder stay small in memory', async () => {
    for (let i = 0; i < 3000; i++) writeFileSync(files.inside(`f${i}`), '');
    const before = files.fixture.gateway.residentBytes();
    const page = await files.ask('GET', 'list?limit=10');
    expect(page.json.entries).toHaveLength(10);
    expect((await files.list()).length).toBe(3000);
    expect(files.fixture.gateway.residentBytes() - before).toBeLessThan(20 * 1024 * 1024);
  });

  test('refuse what is no limit and no cursor', async () => {
    for (const query of ['limit=0', 'limit=1001', 'limit=x', 'cursor=%00', 'cursor=Li4', 'recursive=maybe'])
      expect(await files.ask('GET', `list?${query}`)).toMatchObject({ status: 400, json: { error: { code: 'bad_request' } } });
  });

  test('leave out names that are no UTF-8, which deleting the folder takes all the same', async () => {
    mkdirSync(files.inside('odd'));
    writeFileSync(Buffer.concat([Buffer.from(files.inside('odd/')), Buffer.from([0x66, 0xff])]), 'x');
    writeFileSync(files.inside('odd/ok'), 'x');
    expect((await files.list({ path: 'odd' })).map(({ path }) => path)).toEqual(['odd/ok']);
    expect((await files.ask('DELETE', 'files/odd?recursive=true')).status).toBe(204);
    expect(existsSync(files.inside('odd'))).toBe(false);
  });
});

describe('deleting, moving and making folders', () => {
  test('takes a file, and a folder only when asked to', async () => {
    await files.put('d/e/f', 'x');
    expect(await files.ask('DELETE', 'files/d')).toMatchObject({ status: 409, json: { error: { code: 'is_folder' } } });
    expect((await files.ask('DELETE', 'files/d/e/f')).status).toBe(204);
    expect((await files.ask('DELETE', 'files/d/e/f')).status).toBe(404);
    expect((await files.ask('DELETE', 'files/d?recursive=true')).status).toBe(204);
    expect(readdirSync(files.inside())).toEqual([]);
    expect(readdirSync(join(files.dataDir, '.berth/trash'))).toEqual([]);
    expect(await files.ask('DELETE', 'files/?recursive=true')).toMatchObject({
      status: 400,
      json: { error: { code: 'bad_path' } },
    });
  });

  test('deletes a tree however deep, and folders that forbid it', async () => {
    mkdirSync(files.inside('t', 'd/'.repeat(400)), { recursive: true });
    mkdirSync(files.inside('t/locked'));
    writeFileSync(files.inside('t/locked/f'), '');
    chmodSync(files.inside('t/locked'), 0o500);
    expect((await files.ask('DELETE', 'files/t?recursive=true')).status).toBe(204);
    expect(readdirSync(join(files.dataDir, '.berth/trash'))).toEqual([]);
  });

  test('moves, makes the folders of the target, and replaces only when asked to', async () => {
    await files.put('from', 'one');
    await files.put('there', 'two');
    expect(await files.ask('POST', 'move', { from: 'from', to: 'there' })).toMatchObject({
      status: 409,
      json: { error: { code: 'exists' } },
    });
    expect(await files.ask('POST', 'move', { from: 'from', to: 'there', overwrite: true })).toMatchObject({ status: 200 });
    expect(await files.ask('POST', 'move', { from: 'there', to: 'x/y/z' })).toMatchObject({
      status: 201,
      json: { path: 'x/y/z', kind: 'file', size: 3 },
    });
    expect(readFileSync(files.inside('x/y/z'), 'utf8')).toBe('one');
    expect(await files.ask('POST', 'move', { from: 'none', to: 'y' })).toMatchObject({ status: 404 });
    expect(await files.ask('POST', 'move', { from: 'x', to: 'x/y/w' })).toMatchObject({
      status: 400,
      json: { error: { code: 'bad_path' } },
    });
    await files.put('full/f', '');
    expect(await files.ask('POST', 'move', { from: 'x', to: 'full', overwrite: true })).toMatchObject({
      status: 409,
      json: { error: { code: 'exists' } },
    });
    expect(await files.ask('POST', 'move', { from: 'x', to: 'moved' })).toMatchObject({ status: 201, json: { kind: 'folder' } });
    expect(readFileSync(files.inside('moved/y/z'), 'utf8')).toBe('one');
    for (const body of [{}, { from: 1, to: 'x' }, { from: 'moved', to: '' }, []])
      expect((await files.ask('POST', 'move', body)).status).toBe(400);
  });

  test('makes folders, and says when there was one', async () => {
    expect(await files.ask('POST', 'folder', { path: 'p/q' })).toMatchObject({
      status: 201,
      json: { path: 'p/q', kind: 'folder' },
    });
    expect(await files.ask('POST', 'folder', { path: 'p/q' })).toMatchObject({ status: 200 });
    await files.put('p/file', '');
    expect(await files.ask('POST', 'folder', { path: 'p/file' })).toMatchObject({
      status: 409,
      json: { error: { code: 'exists' } },
    });
    expect(await files.ask('POST', 'folder', { path: 'p/file/x' })).toMatchObject({
      status: 409,
      json: { error: { code: 'not_folder' } },
    });
  });
});
