import { once } from 'node:events';
import type { Http2ServerRequest, Http2ServerResponse } from 'node:http2';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { openRequest, type OpenRequest } from '../support/http-stream.js';
import { until } from '../support/until.js';

// What Berth makes of instances and clients that misbehave: the gateway is a fake that does as each test says. What files are is tested
// with the real one, in test/e2e/files.test.ts.

const STALL_MS = 300;
const TIER_BYTES = 10 * 1024 * 1024 * 1024;

let app: TestApp;
let user: { id: string; key: string };
let base: string;

beforeAll(async () => {
  const times = { headersMs: 500, stallMs: STALL_MS, settleMs: 600 };
  app = await startApp({
    env: { READY_TIMEOUT_MS: '1000' },
    app: { files: { times, pace: { windowMs: 500, windowBytes: 1_000, stalledMs: 400 } } },
  });
  user = await app.user();
  await app.agent(user, 'ada');
  await app.ready(user);
  base = `/api/v1/users/${user.id}/agents/ada`;
});
afterAll(() => app.stop());
afterEach(() => (app.gateways.files = undefined));

type Told = { request: Http2ServerRequest; response: Http2ServerResponse };

/** The next call that reaches the gateway. */
function nextCall(act?: (told: Told) => void): Promise<Told> {
  return new Promise((resolve) => {
    app.gateways.files = (request, response) => {
      request.on('error', () => {});
      response.on('error', () => {});
      act?.({ request, response });
      resolve({ request, response });
    };
  });
}

function open(method: string, path: string, headers: Record<string, string | number> = {}): OpenRequest {
  return openRequest(app.url, method, `${base}${path}`, { 'x-api-key': user.key, ...headers });
}

function send(method: string, path: string, headers: Record<string, string | number> = {}, body = '') {
  const { request, answer } = open(method, path, headers);
  request.end(body);
  return answer;
}

const json = (bytes: Buffer) => JSON.parse(bytes.toString()) as { code: string; error: string; fields?: { path: string }[] };
const FILE = { etag: '"1"', 'content-length': '10', 'accept-ranges': 'bytes', 'x-berth-kind': 'file' };
const WRITTEN = JSON.stringify({ path: 'x', size: 4, etag: '"2"', modified: '2026-11-22T10:00:00Z' });

describe('what reaches the gateway', () => {
  test.each([
    ['/files/a/b.txt', '/files/a/b.txt'],
    ['/files/a%2Fb.txt', '/files/a/b.txt'],
    ['/files/a%252Fb', '/files/a%252Fb'],
    ['/files/%C3%A9', '/files/%C3%A9'],
    ['/files/e%CC%81', '/files/e%CC%81'],
    ['/files/%F0%9F%98%80%20%22%3F%23%27', "/files/%F0%9F%98%80%20%22%3F%23'"],
    ['/files/.env', '/files/.env'],
    ['/files/move', '/files/move'],
    ['/files/a+b', '/files/a%2Bb'],
  ])('%s is %s there: decoded once', async (sent, received) => {
    const called = nextCall(({ response }) => void response.writeHead(200, FILE).end('0123456789'));
    expect((await send('GET', sent)).bytes.toString()).toBe('0123456789');
    expect((await called).request.url).toBe(`/berth/v1/agents/ada${received}`);
  });

  test.each([
    '/files/..',
    '/files/a/../../b',
    '/files/%2e%2e/b',
    '/files/a%2F..%2Fb',
    '/files/%2Fetc',
    '/files//etc',
    '/files/a%00',
    '/files/a%0Ab',
    '/files/%ff',
    '/files/a//b',
    `/files/${'x'.repeat(256)}`,
    `/files/${Array(65).fill('d').join('/')}`,
  ])('%s never does', async (path) => {
    let calls = 0;
    app.gateways.files = () => calls++;
    for (const method of ['GET', 'PUT', 'DELETE']) {
      const { status, bytes } = await send(method, path);
      expect([status, json(bytes).code, json(bytes).fields?.[0]?.path]).toEqual([400, 'invalid_request', 'path.path']);
    }
    expect(calls).toBe(0);
  });

  test('a guard that cannot be understood is refused where something is written, and left aside where it is read', async () => {
    for (const [name, value] of [
      ['If-Match', 'W/"1"'],
      ['If-Match', 'nonsense'],
      ['If-None-Match', '"1"'],
    ] as const) {
      const { status, bytes } = await send('PUT', '/files/x', { [name]: value }, 'text');
      expect([status, json(bytes).fields?.[0]?.path]).toEqual([400, `header.${name}`]);
    }
    const called = nextCall(({ response }) => void response.writeHead(200, FILE).end('0123456789'));
    await send('GET', '/files/x', { Range: 'lines=1-2', 'If-None-Match': 'nonsense', 'If-Range': '"1"' });
    expect((await called).request.headers).not.toMatchObject({ range: expect.anything() });
  });

  test('an upload carries its length, its guard and the quota of the tier; the answer is the gateway’s', async () => {
    let received = '';
    const called = nextCall(({ request, response }) => {
      request.on('data', (chunk: Buffer) => (received += chunk.toString()));
      request.on('end', () => response.writeHead(201).end(WRITTEN));
    });
    const { status, headers, bytes } = await send('PUT', '/files/x', { 'If-None-Match': '*', 'Content-Length': 4 }, 'text');
    expect([status, headers.etag, json(bytes)]).toEqual([
      201,
      '"2"',
      { path: 'x', size: 4, etag: '"2"', modified: '2026-11-22T10:00:00.000Z' },
    ]);
    const { request } = await called;
    expect(request.headers).toMatchObject({
      'content-length': '4',
      'if-none-match': '*',
      'x-berth-quota': String(TIER_BYTES),
    });
    expect(received).toBe('text');
  });

  test('a body that says itself that it is larger than the tier is refused unread, with the figure', async () => {
    let calls = 0;
    app.gateways.files = () => calls++;
    const { request, answer } = open('PUT', '/files/x', { 'Content-Length': TIER_BYTES + 1 });
    request.flushHeaders();
    const { status, bytes } = await answer;
    expect([status, json(bytes).code, calls]).toEqual([413, 'payload_too_large', 0]);
    expect(json(bytes).error).toContain(String(TIER_BYTES));
  });
});

describe('an instance that misbehaves', () => {
  test.each([
    ['less than it said', '01234'],
    ['more than it said', '0123456789x'],
  ])('sends %s: the answer is broken off, never passed for whole', async (_, body) => {
    void nextCall(({ response }) => {
      response.stream.respond({ ':status': 200, ...FILE, 'content-length': 10 });
      response.stream.end(body);
    });
    const { broken, bytes } = await send('GET', '/files/x').catch(() => ({ broken: true, bytes: Buffer.alloc(0) }));
    expect([broken, bytes.length <= 10]).toEqual([true, true]);
  });

  test('goes away in the midst of a file: the answer is broken off', async () => {
    void nextCall(({ response }) => void response.writeHead(200, { ...FILE, 'content-length': '100000' }).write('0123456789'));
    const { request, answer } = open('GET', '/files/x');
    request.end();
    await once(request, 'response');
    app.gateways.cut();
    expect(await answer).toMatchObject({ status: 200, broken: true });
    await app.ready(user);
  });

  test('goes away in the midst of an archive, which has no length: the answer is broken off all the same', async () => {
    void nextCall(({ response }) => void response.writeHead(200, { 'content-type': 'application/x-tar' }).write('0123456789'));
    const { request, answer } = open('GET', '/archive');
    request.end();
    await once(request, 'response');
    app.gateways.cut();
    expect(await answer).toMatchObject({ status: 200, broken: true });
    await app.ready(user);
  });

  test('sends nothing more of a file while the client waits: the answer is broken off', async () => {
    void nextCall(({ response }) => void response.writeHead(200, FILE).write('01234'));
    expect(await send('GET', '/files/x')).toMatchObject({ status: 200, broken: true, bytes: Buffer.from('01234') });
  });

  test('goes away in the midst of an upload: 503 that says what is known, and nothing is tried again', async () => {
    let calls = 0;
    const called = nextCall(() => calls++);
    const { request, answer } = open('PUT', '/files/x');
    request.write('some');
    const told = await called;
    await once(told.request, 'data');
    app.gateways.cut();
    const { status, headers, bytes } = await answer;
    expect([status, headers['retry-after'], json(bytes).error]).toEqual([
      503,
      '1',
      expect.stringContaining('before the upload was confirmed'),
    ]);
    request.destroy();
    await app.ready(user);
    expect(calls).toBe(1);
  });

  test('takes nothing of an upload: given up after a while', async () => {
    void nextCall();
    const { request, answer } = open('PUT', '/files/x', { 'Content-Length': 10_000_000 });
    request.write(Buffer.alloc(5_000_000));
    expect(await answer).toMatchObject({ status: 504 });
    request.destroy();
  });

  test('has all of an upload and never answers: given up after a while', async () => {
    void nextCall(({ request }) => request.resume());
    expect(await send('PUT', '/files/x', {}, 'text')).toMatchObject({ status: 504 });
  });

  test('answers before it has read: the client has that answer while it still sends', async () => {
    void nextCall(({ response }) => {
      const error = { message: 'There is not so much room left for this agent.', code: 'quota' };
      response.writeHead(413).end(JSON.stringify({ error, limit: 100, used: 90 }));
    });
    const { request, answer } = open('PUT', '/files/x', { 'Content-Length': 50_000_000 });
    request.write(Buffer.alloc(1_000_000));
    const { status, bytes } = await answer;
    expect([status, json(bytes).error]).toEqual([413, 'there is not so much room left for this agent: 90 of 100 bytes are used']);
    request.destroy();
  });

  test.each<[string, number, object, number, string]>([
    ['a folder', 409, { error: { code: 'is_folder', message: 'It is a folder.' } }, 409, 'conflict'],
    ['a full disk', 507, { error: { code: 'disk_full', message: 'The disk is full.' } }, 507, 'insufficient_storage'],
    ['no such file', 404, { error: { code: 'not_found' } }, 404, 'not_found'],
    ['a path it does not take', 400, { error: { code: 'bad_path', message: 'No.' } }, 400, 'invalid_request'],
    ['a crash', 500, { error: { message: 'x' } }, 502, 'upstream_error'],
    ['a strange code', 418, {}, 502, 'upstream_error'],
    ['a code of every object', 409, { error: { code: 'constructor' } }, 502, 'upstream_error'],
    ['busyness', 503, { error: { code: 'busy', message: 'Busy.' } }, 503, 'unavailable'],
  ])('refuses with %s', async (_, status, body, expected, code) => {
    app.gateways.files = (_request, response) => void response.writeHead(status).end(JSON.stringify(body));
    const answer = await send('GET', '/files/x');
    expect([answer.status, json(answer.bytes).code]).toEqual([expected, code]);
  });

  test.each<[string, Record<string, string>]>([
    ['no length', { etag: '"1"' }],
    ['a length that is none', { ...FILE, 'content-length': '-1' }],
  ])('says %s of a file: 502', async (_, headers) => {
    void nextCall(({ response }) => {
      if (headers['content-length'] === '-1') response.stream.respond({ ':status': 206, ...FILE });
      else response.writeHead(200, headers);
      response.end();
    });
    expect((await send('GET', '/files/x')).status).toBe(502);
  });

  test('names headers that could split the answer, or a tag that is none: left out', async () => {
    void nextCall(({ response }) => {
      response.writeHead(200, { ...FILE, etag: 'evil', 'last-modified': '<script>', 'set-cookie': 'a=b', location: '/x' });
      response.end('0123456789');
    });
    const { headers } = await send('GET', '/files/x');
    expect(Object.keys(headers)).not.toEqual(expect.arrayContaining(['etag']));
    for (const name of ['etag', 'last-modified', 'set-cookie', 'location']) expect(headers[name]).toBeUndefined();
  });

  test('lists garbage: 502', async () => {
    for (const body of [
      '',
      '[]',
      '{}',
      '{"entries":[1]}',
      '{"entries":[{"path":"x","kind":"device"}]}',
      `{"entries":[${'{},'.repeat(300)}{}]}`,
    ]) {
      void nextCall(({ response }) => void response.writeHead(200).end(body));
      expect((await send('GET', '/files')).status).toBe(502);
    }
  });

  test('never says a word: 504', async () => {
    void nextCall();
    expect((await send('GET', '/files/x')).status).toBe(504);
  });
});

describe('a client that misbehaves', () => {
  test('goes in the midst of an upload: the instance is told at once', async () => {
    const called = nextCall();
    const { request } = open('PUT', '/files/x', { 'Content-Length': 1_000 });
    request.write('half');
    const told = await called;
    await once(told.request, 'data');
    const cut = once(told.request, 'aborted');
    request.destroy();
    await cut;
  });

  test('goes in the midst of a download: the instance stops', async () => {
    const called = nextCall(
      ({ response }) => void response.writeHead(200, { ...FILE, 'content-length': '100000000' }).write('x'),
    );
    const { request } = open('GET', '/files/x');
    request.end();
    const [response] = (await once(request, 'response')) as [{ destroy(): void; on(name: string, f: () => void): void }];
    response.on('error', () => {});
    const closed = once((await called).response, 'close');
    response.destroy();
    await closed;
  });

  test('sends a byte at a time, and longer than a whole request may take: all of it arrives', async () => {
    let received = '';
    void nextCall(({ request, response }) => {
      request.on('data', (chunk: Buffer) => (received += chunk.toString()));
      request.on('end', () => response.writeHead(201).end(WRITTEN));
    });
    const { request, answer } = open('PUT', '/files/x');
    const text = 'one byte at a time';
    for (const char of text) {
      request.write(char);
      await until(() => received.endsWith(char), 'a byte to arrive');
    }
    request.end();
    expect((await answer).status).toBe(201);
    expect(received).toBe(text);
  });

  test('sends too slowly to be waited for: 408, and the instance lets go', async () => {
    const called = nextCall();
    const { request, answer } = open('PUT', '/files/x', { 'Content-Length': 1_000 });
    request.write('x');
    const told = await called;
    const cut = once(told.request, 'aborted');
    told.request.resume();
    const { status, bytes } = await answer;
    expect([status, json(bytes).code]).toEqual([408, 'request_timeout']);
    await cut;
  });

  test('breaks the framing of its body: the instance is told that it was cut', async () => {
    const called = nextCall();
    const { request } = open('PUT', '/files/x', { 'Transfer-Encoding': 'chunked' });
    request.write('fine');
    const told = await called;
    const cut = once(told.request, 'aborted');
    told.request.resume();
    request.socket?.write('nonsense\r\n');
    await cut;
  });
});

describe('an agent that is not there', () => {
  test('is waited for, then 503 with Retry-After; nothing of a body is read meanwhile', async () => {
    const other = await app.user();
    app.gateways.silent = true;
    try {
      await app.agent(other, 'late');
      const path = `/api/v1/users/${other.id}/agents/late/files/x`;
      const { request, answer } = openRequest(app.url, 'PUT', path, { 'x-api-key': other.key, 'Content-Length': 100 });
      request.write('x');
      const { status, headers } = await answer;
      expect([status, headers['retry-after']]).toEqual([503, '5']);
      request.destroy();
    } finally {
      app.gateways.silent = false;
    }
  });

  test('comes up while it is waited for: the call goes through', async () => {
    const other = await app.user();
    app.gateways.silent = true;
    await app.agent(other, 'late');
    app.gateways.files = (request, response) => {
      request.resume();
      request.on('end', () => response.writeHead(201).end(WRITTEN));
    };
    const path = `/api/v1/users/${other.id}/agents/late/files/x`;
    const { request, answer } = openRequest(app.url, 'PUT', path, { 'x-api-key': other.key, 'Content-Length': 4 });
    request.end('text');
    app.gateways.silent = false;
    expect((await answer).status).toBe(201);
  });

  test('never was: 404', async () => {
    expect((await app.get(`/api/v1/users/${user.id}/agents/nobody/files/x`, user.key)).status).toBe(404);
  });
});
