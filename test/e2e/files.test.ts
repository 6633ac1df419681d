import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { openRequest, type StreamedAnswer } from '../support/http-stream.js';
import { until } from '../support/until.js';
import { say, type Tenant, tenant } from './inside.js';

// The files of agents as their users see them: the real gateway, in a process of its own. What containers add is in files-docker.test.ts.

const run = promisify(execFile);

let app: TestApp;
let ada: Tenant;

beforeAll(async () => {
  app = await startApp({ runtime: 'process' });
  ada = await tenant(app);
});
afterAll(() => app.stop());

const at = (path: string, who = ada) => `/api/v1/users/${who.id}/agents/${who.agent.name}${path}`;
/** A file's URL, its name percent-encoded once. */
const url = (path: string) => at(`/files/${path.split('/').map(encodeURIComponent).join('/')}`);

async function call(
  method: string,
  path: string,
  body?: string | Buffer,
  headers: Record<string, string | number> = {},
): Promise<StreamedAnswer & { json: any }> {
  const { request, answer } = openRequest(app.url, method, path, { 'x-api-key': ada.key, ...headers });
  request.end(body);
  const answered = await answer;
  return {
    ...answered,
    get json() {
      return JSON.parse(answered.bytes.toString());
    },
  };
}

/** Where the process runtime keeps the data of a tenant's deployment. */
async function volumeOf(who: Tenant): Promise<string> {
  const root = join(app.dataDir, 'process', 'volumes');
  const found = (await readdir(root)).find((name) => name.includes(who.agent.deploymentId.slice(4)));
  if (found === undefined) throw new Error(`no volume of ${who.agent.deploymentId} among ${(await readdir(root)).join(', ')}`);
  return join(root, found, 'data');
}

const put = (path: string, body: string | Buffer, headers: Record<string, string | number> = {}) =>
  call('PUT', url(path), body, headers);
const read = (path: string, headers: Record<string, string> = {}) => call('GET', url(path), undefined, headers);
const list = async (query: string) => (await call('GET', at(`/files?${query}`))).json;
const post = (path: string, body: object) => call('POST', at(path), JSON.stringify(body), { 'content-type': 'application/json' });

describe('a file', () => {
  test('is what was written, byte by byte, and says so', async () => {
    const bytes = randomBytes(300_000);
    const written = await put('data/raw.bin', bytes);
    expect([written.status, written.json]).toEqual([
      201,
      { path: 'data/raw.bin', size: 300_000, etag: written.headers.etag, modified: expect.stringMatching(/^\d{4}-.*Z$/) },
    ]);
    const got = await read('data/raw.bin');
    expect([got.status, got.bytes.equals(bytes)]).toEqual([200, true]);
    expect(got.headers).toMatchObject({
      etag: written.headers.etag,
      'content-length': '300000',
      'content-type': 'application/octet-stream',
      'content-disposition': 'attachment; filename="raw.bin"',
      'content-security-policy': expect.stringMatching(/^sandbox;/),
      'x-content-type-options': 'nosniff',
      'accept-ranges': 'bytes',
      'cache-control': 'private, no-cache',
      'last-modified': expect.stringContaining('GMT'),
      'x-berth-kind': 'file',
    });
    const asked = await call('HEAD', url('data/raw.bin'));
    expect([asked.status, asked.bytes.length, asked.headers['content-length'], asked.headers.etag]).toEqual([
      200,
      0,
      '300000',
      got.headers.etag,
    ]);
    const again = await put('data/raw.bin', 'shorter');
    expect([again.status, again.json.size, (await read('data/raw.bin')).bytes.toString()]).toEqual([200, 7, 'shorter']);
    expect(again.headers.etag).not.toBe(written.headers.etag);
  });

  test('may be empty', async () => {
    expect((await put('empty', '', { 'Content-Length': 0 })).json.size).toBe(0);
    expect(await read('empty')).toMatchObject({ status: 200, headers: { 'content-length': '0' } });
    expect((await put('empty-chunked', '', { 'Transfer-Encoding': 'chunked' })).json.size).toBe(0);
  });

  test.each([
    'with space.txt',
    `it's "quoted" & <odd>.txt`,
    'what?#really;x=1.txt',
    '100%.txt',
    '😀 emoji.txt',
    '.hidden',
    '...',
    'a\\b',
    'move',
    'archive',
    `${'n'.repeat(251)}.txt`,
    'caf\u00e9.txt',
    'cafe\u0301.txt',
    'a%2Fb',
  ])('may be called %s', async (name) => {
    const body = `I am ${name}`;
    expect((await put(`names/${name}`, body)).status).toBe(201);
    expect((await read(`names/${name}`)).bytes.toString()).toBe(body);
    const { data } = await list('path=names&limit=1000');
    expect(data.map((entry: { path: string }) => entry.path)).toContain(`names/${name}`);
  });

  test('is found by %2F as by a slash, and under no other spelling of its name', async () => {
    await put('deep/er/file.txt', 'here');
    expect((await call('GET', at('/files/deep%2Fer%2Ffile.txt'))).bytes.toString()).toBe('here');
    expect((await call('GET', at('/files/deep%252Fer%252Ffile.txt'))).status).toBe(404);
  });

  test('is read in parts', async () => {
    const { headers } = await put('ranges.txt', '0123456789');
    const part = async (range: string, more: Record<string, string> = {}) => {
      const answer = await read('ranges.txt', { Range: range, ...more });
      return [answer.status, answer.headers['content-range'], answer.bytes.toString()];
    };
    expect(await part('bytes=2-4')).toEqual([206, 'bytes 2-4/10', '234']);
    expect(await part('bytes=7-')).toEqual([206, 'bytes 7-9/10', '789']);
    expect(await part('bytes=-2')).toEqual([206, 'bytes 8-9/10', '89']);
    expect(await part('bytes=5-500')).toEqual([206, 'bytes 5-9/10', '56789']);
    expect(await part('bytes=0-1,4-5')).toEqual([200, undefined, '0123456789']);
    expect(await part('bytes=1-1', { 'If-Range': headers.etag ?? '' })).toEqual([206, 'bytes 1-1/10', '1']);
    expect(await part('bytes=1-1', { 'If-Range': '"old"' })).toEqual([200, undefined, '0123456789']);
    const beyond = await read('ranges.txt', { Range: 'bytes=10-' });
    expect([beyond.status, beyond.headers['content-range'], beyond.json.code]).toEqual([
      416,
      'bytes */10',
      'range_not_satisfiable',
    ]);
  });

  test('is not sent again to whoever has it', async () => {
    const { headers } = await put('cached.txt', 'once');
    const again = await read('cached.txt', { 'If-None-Match': headers.etag ?? '' });
    expect([again.status, again.bytes.length, again.headers.etag]).toEqual([304, 0, headers.etag]);
    expect((await read('cached.txt', { 'If-None-Match': '"other"' })).status).toBe(200);
  });

  test('is offered under the name that is asked for', async () => {
    await put('report.txt', 'x');
    const named = async (query: string) => (await call('GET', `${url('report.txt')}?${query}`)).headers['content-disposition'];
    expect(await named('')).toBe('inline; filename="report.txt"');
    expect(await named('download=true')).toBe('attachment; filename="report.txt"');
    expect(await named('download=June%20%E2%82%AC.txt')).toBe(
      `attachment; filename="June _.txt"; filename*=UTF-8''June%20%E2%82%AC.txt`,
    );
    expect((await call('GET', `${url('report.txt')}?download=${encodeURIComponent('a/b')}`)).status).toBe(400);
    expect((await call('GET', `${url('report.txt')}?download=%0d%0aX:1`)).status).toBe(400);
  });

  test('that does not exist is 404, also to HEAD and DELETE', async () => {
    for (const method of ['GET', 'HEAD', 'DELETE']) expect((await call(method, url('nothing/here'))).status).toBe(404);
  });
});

describe('two writers', () => {
  test('who both guard themselves: one wins, the other is told', async () => {
    const { headers } = await put('guarded.txt', 'first', { 'If-None-Match': '*' });
    expect(await put('guarded.txt', 'again', { 'If-None-Match': '*' })).toMatchObject({ status: 412 });
    const bodies = ['a', 'b'].map((letter) => letter.repeat(500_000));
    const answers = await Promise.all(bodies.map((body) => put('guarded.txt', body, { 'If-Match': headers.etag ?? '' })));
    expect(answers.map(({ status }) => status).toSorted()).toEqual([200, 412]);
    const won = bodies[answers.findIndex(({ status }) => status === 200)];
    expect((await read('guarded.txt')).bytes.toString() === won).toBe(true);
    expect((await call('DELETE', url('guarded.txt'), undefined, { 'If-Match': headers.etag ?? '' })).status).toBe(412);
    expect((await put('not-there.txt', 'x', { 'If-Match': '*' })).status).toBe(412);
  });

  test('who do not: one wins whole', async () => {
    const bodies = ['a', 'b', 'c'].map((letter) => letter.repeat(1_000_000));
    await Promise.all(bodies.map((body) => put('raced.txt', body)));
    expect(bodies).toContain((await read('raced.txt')).bytes.toString());
  });
});

describe('folders', () => {
  test('are listed by name, page by page, and all the way down where asked', async () => {
    for (const path of ['b', 'a/2', 'a/1', 'c']) await put(`tree/${path}`, path);
    const paths = ({ data }: { data: { path: string; kind: string }[] }) => data.map(({ path, kind }) => `${kind} ${path}`);
    expect(paths(await list('path=tree'))).toEqual(['folder tree/a', 'file tree/b', 'file tree/c']);
    const all = ['folder tree/a', 'file tree/a/1', 'file tree/a/2', 'file tree/b', 'file tree/c'];
    expect(paths(await list('path=tree&recursive=true'))).toEqual(all);
    const seen: string[] = [];
    for (let cursor = ''; ;) {
      const page = await list(`path=tree&recursive=true&limit=2${cursor}`);
      seen.push(...paths(page));
      expect(page.pagination).toEqual({
        next_cursor: page.pagination.next_cursor,
        has_more: page.pagination.next_cursor !== null,
        total: null,
      });
      if (!page.pagination.has_more) break;
      cursor = `&cursor=${encodeURIComponent(page.pagination.next_cursor)}`;
    }
    expect(seen).toEqual(all);
    expect((await call('GET', at('/files?path=tree%2Fb'))).status).toBe(409);
    expect((await call('GET', at('/files?path=nowhere'))).status).toBe(404);
    expect((await call('GET', at('/files?path=..'))).json.fields[0].path).toBe('query.path');
  });

  test('are no files: reading one says what to do, HEAD says what it is', async () => {
    await put('shelf/book', 'x');
    const got = await read('shelf');
    expect([got.status, got.json.error]).toEqual([409, expect.stringContaining('/archive')]);
    expect(await call('HEAD', url('shelf'))).toMatchObject({ status: 200, headers: { 'x-berth-kind': 'folder' } });
    expect((await put('shelf', 'x')).status).toBe(409);
    expect((await put('shelf/book/page', 'x')).status).toBe(409);
  });

  test('are deleted with what is in them only where that is said', async () => {
    await put('old/a/b', 'x');
    const refused = await call('DELETE', url('old'));
    expect([refused.status, refused.json.error]).toEqual([409, expect.stringContaining('recursive=true')]);
    expect((await call('DELETE', `${url('old')}?recursive=true`)).status).toBe(204);
    expect((await read('old/a/b')).status).toBe(404);
    await put('one-file', 'x');
    expect((await call('DELETE', url('one-file'))).status).toBe(204);
  });

  test('are made, and things move into them', async () => {
    expect(await post('/folders', { path: 'made/here' })).toMatchObject({
      status: 201,
      json: { path: 'made/here', kind: 'folder' },
    });
    expect((await post('/folders', { path: 'made/here' })).status).toBe(200);
    await put('from.txt', 'moved');
    expect(await post('/file-moves', { from: 'from.txt', to: 'made/here/to.txt' })).toMatchObject({
      status: 200,
      json: { path: 'made/here/to.txt', kind: 'file', size: 5 },
    });
    expect([(await read('from.txt')).status, (await read('made/here/to.txt')).bytes.toString()]).toEqual([404, 'moved']);
    await put('other.txt', 'other');
    expect((await post('/file-moves', { from: 'other.txt', to: 'made/here/to.txt' })).status).toBe(409);
    expect((await post('/file-moves', { from: 'other.txt', to: 'made/here/to.txt', overwrite: true })).status).toBe(200);
    expect((await read('made/here/to.txt')).bytes.toString()).toBe('other');
    expect((await post('/file-moves', { from: 'made', to: 'made/here/below-itself' })).status).toBeGreaterThanOrEqual(400);
    for (const [from, to, field] of [
      ['../x', 'y', 'from'],
      ['x', '/etc/y', 'to'],
      ['', 'y', 'from'],
    ])
      expect(await post('/file-moves', { from, to })).toMatchObject({ status: 400, json: { fields: [{ path: field }] } });
  });
});

describe('a whole folder', () => {
  test.each(['tar', 'zip'] as const)('goes out as a %s, and in again, whole', async (format) => {
    const files: Record<string, string> = { 'a.txt': 'A', 'sub/b ü.txt': 'B', 'sub/deep/😀': 'C'.repeat(200_000), '.dot': '' };
    for (const [path, body] of Object.entries(files)) expect((await put(`pack-${format}/${path}`, body)).status).toBe(201);
    const packed = await call('GET', at(`/archive?path=pack-${format}&format=${format}`));
    expect([packed.status, packed.broken, packed.headers['content-disposition']]).toEqual([
      200,
      false,
      `attachment; filename="pack-${format}.${format}"`,
    ]);
    const unpacked = await call('PUT', at(`/archive?path=unpacked-${format}&format=${format}`), packed.bytes);
    expect([unpacked.status, unpacked.json]).toEqual([200, { path: `unpacked-${format}`, files: 4, bytes: 200_002 }]);
    const { data } = await list(`path=unpacked-${format}&recursive=true`);
    const found = data.filter(({ kind }: { kind: string }) => kind === 'file').map(({ path }: { path: string }) => path);
    expect(found.length).toBe(4);
    for (const path of found) {
      const inner = path.slice(path.indexOf('/') + 1).replace(`pack-${format}/`, '');
      expect((await read(path)).bytes.toString() === files[inner]).toBe(true);
    }
  });

  test('is the workspace where none is named; HEAD says only what it would be', async () => {
    const whole = await call('GET', at('/archive'));
    expect([whole.status, whole.headers['content-type'], whole.headers['content-disposition']]).toEqual([
      200,
      'application/x-tar',
      'attachment; filename="a.tar"',
    ]);
    expect((await call('HEAD', at('/archive?format=zip'))).headers['content-type']).toBe('application/zip');
    expect((await call('GET', at('/archive?path=nowhere'))).status).toBe(404);
    expect((await call('GET', at('/archive?format=rar'))).json.fields[0].path).toBe('query.format');
    expect((await call('GET', at('/archive?path=../x'))).json.fields[0].path).toBe('query.path');
  });

  test('that is garbage, cut, or wants out of its folder, leaves nothing', async () => {
    const { bytes: good } = await call('GET', at('/archive?path=pack-tar&format=tar'));
    const evil = Buffer.from(good);
    evil.write('../../evil.txt\0', 0);
    evil.write('        ', 148);
    evil.write(
      `${evil
        .subarray(0, 512)
        .reduce((sum, byte) => sum + byte, 0)
        .toString(8)
        .padStart(6, '0')}\0 `,
      148,
    );
    for (const [format, body] of [
      ['tar', randomBytes(10_000)],
      ['zip', randomBytes(10_000)],
      ['tar', good.subarray(0, 100_000)],
      ['zip', good],
      ['tar', evil],
    ] as const) {
      const { status, json } = await call('PUT', at(`/archive?path=bad&format=${format}`), body);
      expect([status, json.code]).toEqual([422, 'unprocessable']);
      expect((await list('path=bad')).code).toBe('not_found');
    }
  });
});

describe('the agent', () => {
  test('reads what was written through the API in its next step, and the other way round', async () => {
    await put('shared/question.txt', 'What is six times seven?');
    expect(await say(app, ada, '/tool read_file {"path":"shared/question.txt"}')).toContain('six times seven');
    await say(app, ada, '/tool write_file {"path":"shared/answer.txt","content":"forty-two"}');
    expect((await read('shared/answer.txt')).bytes.toString()).toBe('forty-two');
  });

  test('is asked for its files while it is stopped, and nobody chats with it', async () => {
    const sleeper = await tenant(app);
    const path = at('/files/kept.txt', sleeper);
    const send = async (method: string, body?: string) => {
      const { request, answer } = openRequest(app.url, method, path, { 'x-api-key': sleeper.key });
      request.end(body);
      return answer;
    };
    expect((await send('PUT', 'kept')).status).toBe(201);
    expect((await app.post(at('/stop', sleeper), sleeper.key, undefined)).status).toBeLessThan(300);
    await until(async () => (await app.runtime.list()).instances.length === 1, 'its instance to be gone');
    expect((await send('GET')).bytes.toString()).toBe('kept');
    expect((await send('PUT', 'changed')).status).toBe(200);
    expect((await send('GET')).bytes.toString()).toBe('changed');
  });

  test('every change of its files is an event, without what is in them', async () => {
    const of = (type: string) => `/api/v1/users/${ada.id}/agents/${ada.agent.name}/events?type=${type}&order=desc&limit=5`;
    await put('told/secret.txt', 'canary');
    await post('/file-moves', { from: 'told/secret.txt', to: 'told/moved.txt' });
    await call('DELETE', url('told/moved.txt'));
    let events: { type: string; data: object }[] = [];
    await until(async () => {
      events = (await app.get(of('file.*'), ada.key)).json.data;
      return events.some(({ type }) => type === 'file.deleted');
    }, 'the events of the files');
    const about = { agent_id: ada.agent.id };
    expect(events.slice(0, 3).map(({ type, data }) => [type, data])).toEqual(
      expect.arrayContaining([
        ['file.deleted', { ...about, path: 'told/moved.txt' }],
        ['file.moved', { ...about, from: 'told/secret.txt', to: 'told/moved.txt' }],
        ['file.written', { ...about, path: 'told/secret.txt', size: 6, is_new: true }],
      ]),
    );
    expect(JSON.stringify(events)).not.toContain('canary');
  });
});

describe('what there is room for', () => {
  test('more than the tier allows is refused with the figures, before and while it comes, and leaves nothing', async () => {
    const poor = await tenant(app, { tier: 'free' });
    await app.database.db.updateTable('tiers').set({ disk_mib: 2 }).where('name', '=', 'free').execute();
    const send = (path: string, bytes: number, headers: Record<string, string | number>) => {
      const { request, answer } = openRequest(app.url, 'PUT', at(path, poor), { 'x-api-key': poor.key, ...headers });
      request.on('error', () => {});
      request.end(Buffer.alloc(bytes, 'x'));
      return answer;
    };
    const announced = await send('/files/a', 3_000_000, { 'Content-Length': 3_000_000 });
    expect([announced.status, announced.bytes.toString()]).toEqual([413, expect.stringContaining('2097152')]);
    const crept = await send('/files/a', 3_000_000, { 'Transfer-Encoding': 'chunked' });
    expect([crept.status, crept.bytes.toString()]).toEqual([413, expect.stringContaining('2097152')]);
    expect((await send('/files/a', 1_500_000, { 'Content-Length': 1_500_000 })).status).toBe(201);
    expect((await send('/files/b', 1_000_000, { 'Content-Length': 1_000_000 })).status).toBe(413);
    expect((await send('/files/a', 1_000_000, { 'Content-Length': 1_000_000 })).status).toBe(200);
    const disk = (await app.get(at('/disk', poor), poor.key)).json;
    expect([disk.limit_bytes, disk.bytes > 1_000_000, disk.bytes < 1_500_000]).toEqual([2_097_152, true, true]);
    expect((await app.get(at('/files', poor), poor.key)).json.data.map(({ path }: { path: string }) => path)).toContain('a');
  });

  test('an upload that is cut leaves nothing, and what was there stays', async () => {
    await put('cut.bin', 'before');
    const used = async () => (await call('GET', at('/disk'))).json.bytes as number;
    const before = await used();
    const { request } = openRequest(app.url, 'PUT', url('cut.bin'), { 'x-api-key': ada.key, 'Content-Length': 50_000_000 });
    request.on('error', () => {});
    for (let sent = 0; sent < 100; sent++) {
      if (!request.write(Buffer.alloc(100_000))) await new Promise((resolve) => request.once('drain', resolve));
    }
    request.destroy();
    await until(async () => (await used()) <= before + 100_000, 'the room to be free again');
    expect((await read('cut.bin')).bytes.toString()).toBe('before');
    expect(
      (await list('limit=1000')).data.map(({ path }: { path: string }) => path).filter((path: string) => path.includes('berth-')),
    ).toEqual([]);
  });

  test('a disk that is full is told with its figure; nothing is half-written, and what was there stays', async () => {
    const poor = await tenant(app);
    const send = async (method: string, path: string, body?: Buffer) => {
      const { request, answer } = openRequest(app.url, method, at(path, poor), { 'x-api-key': poor.key });
      request.on('error', () => {});
      request.end(body);
      return answer;
    };
    const volume = await volumeOf(poor);
    await run('mount', ['-t', 'tmpfs', '-o', 'size=4m,mode=0777', 'berth-test', volume]);
    try {
      expect((await send('PUT', '/files/there', Buffer.from('before'))).status).toBe(201);
      const { status, bytes } = await send('PUT', '/files/there', Buffer.alloc(6_000_000));
      expect([status, JSON.parse(bytes.toString())]).toEqual([
        507,
        expect.objectContaining({ code: 'insufficient_storage', error: expect.stringMatching(/full.*\d+ bytes/) }),
      ]);
      expect((await send('GET', '/files/there')).bytes.toString()).toBe('before');
      expect((await send('PUT', '/files/fits', Buffer.alloc(2_000_000))).status).toBe(201);
    } finally {
      await run('umount', ['-l', volume]);
    }
  });

  test('a large body goes both ways unharmed', async () => {
    const hash = createHash('sha256');
    const { request, answer } = openRequest(app.url, 'PUT', url('large.bin'), { 'x-api-key': ada.key });
    for (let i = 0; i < 64; i++) {
      const piece = randomBytes(1024 * 1024);
      hash.update(piece);
      if (!request.write(piece)) await new Promise((resolve) => request.once('drain', resolve));
    }
    request.end();
    expect((await answer).status).toBe(201);
    const { bytes } = await read('large.bin');
    expect(createHash('sha256').update(bytes).digest('hex')).toBe(hash.digest('hex'));
  });
});
