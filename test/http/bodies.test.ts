import { once } from 'node:events';
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { errorOf, startToy, type Toy, until } from './toy.js';

describe('a request body', () => {
  let toy: Toy;
  beforeAll(async () => {
    toy = await startToy();
  });
  afterAll(() => toy.close());

  const create = (body: string, headers: Record<string, string> = {}) =>
    toy.post('/api/v1/agents', body, { key: 'ada-key', headers });

  test.each([
    ['{"name":', 'is not valid JSON: it ends too early, at line 1, column 9'],
    ['{"name": "a",}', 'is not valid JSON at line 1, column 14'],
    ['{\n  "name": hunter2\n}', 'is not valid JSON at line 2, column 11'],
    ["{'name': 'a'}", 'is not valid JSON at line 1, column 2'],
    ['{"name": "a"} hunter2', 'is not valid JSON at line 1, column 15'],
    ['{"name": "a\tb"}', 'is not valid JSON at line 1, column 10'],
    ['[1, 2', 'is not valid JSON: it ends too early, at line 1, column 6'],
    ['[1 2]', 'is not valid JSON at line 1, column 4'],
    ['{"a" 1}', 'is not valid JSON at line 1, column 6'],
    ['01', 'is not valid JSON at line 1, column 2'],
    [' ', 'is empty'],
    [`${'['.repeat(65)}${']'.repeat(65)}`, 'is nested deeper than 64 levels'],
    ['['.repeat(500_000), 'is nested deeper than 64 levels'],
  ])('%.30s is malformed, and is told where', async (body, message) => {
    const [status, answer] = await errorOf(await create(body));
    expect([status, answer.error, answer.fields]).toEqual([400, 'malformed request body', [{ path: 'body', message }]]);
    expect(JSON.stringify(answer)).not.toContain('hunter2');
  });

  test('bytes that are not UTF-8 are refused', async () => {
    const response = await toy.get('/api/v1/agents', {
      method: 'POST',
      key: 'ada-key',
      body: Buffer.from([0x22, 0xff, 0x22]),
      headers: { 'Content-Type': 'application/json' },
    });
    expect(await errorOf(response)).toMatchObject([400, { fields: [{ path: 'body', message: 'is not valid UTF-8' }] }]);
  });

  test.each([
    ['{"name": 7}', 'name', 'expected string, received number'],
    ['{}', 'name', 'is required'],
    ['[]', 'body', 'expected object, received array'],
    ['null', 'body', 'expected object, received null'],
    ['{"name": ""}', 'name', 'must not be empty'],
    [JSON.stringify({ name: 'n'.repeat(10_000) }), 'name', 'must have at most 64 characters'],
    ['{"name": "a", "password": "hunter2"}', 'password', 'must have at most 5 characters'],
    ['{"name": "a", "more": "hunter2"}', 'more', 'is not a known field'],
    ['{"name": "a\\u0000b"}', 'name', 'must not contain NUL'],
    ['{"name": "a\\ud800b"}', 'name', 'must be well-formed Unicode'],
    ['{"name": "a", "x": {"y": ["\\u0000"]}}', 'x.y.0', 'must not contain NUL'],
    ['{"name": "a", "__proto__": {"x": 1}}', '__proto__', 'is not a known field'],
  ])('%.40s is refused by field, without its value', async (body, path, message) => {
    const [status, answer] = await errorOf(await create(body));
    expect([status, answer.code, answer.fields]).toEqual([400, 'invalid_request', [{ path, message }]]);
    expect(answer.detail).toBe(`${path}: ${message}`);
    expect(JSON.stringify(answer)).not.toContain('hunter2');
  });

  test('an emoji and an escaped backslash are text', async () => {
    expect((await create('{"name": "\\ud83e\\udd8a"}')).status).toBe(201);
    expect((await create('{"name": "a\\\\u0000"}')).status).toBe(201);
    expect((await create('\ufeff{"name": "with a byte order mark"}')).status).toBe(201);
  });

  test.each(['text/plain', 'application/xml', 'multipart/form-data; boundary=x', ''])(
    'content type "%s" is 415',
    async (type) => {
      expect(await errorOf(await create('{"name": "a"}', { 'Content-Type': type }))).toMatchObject([
        415,
        { code: 'unsupported_media_type' },
      ]);
    },
  );

  test.each(['application/json; charset=utf-8', 'application/merge-patch+json', 'Application/JSON'])(
    'content type "%s" is JSON',
    async (type) => {
      expect((await create('{"name": "a"}', { 'Content-Type': type })).status).toBe(201);
    },
  );

  test('a POST without any body names what is missing', async () => {
    expect(await errorOf(await toy.get('/api/v1/agents', { method: 'POST', key: 'ada-key' }))).toMatchObject([
      400,
      { fields: [{ path: 'name' }] },
    ]);
  });

  test('10 MB are refused before they are read, announced or not', async () => {
    const body = JSON.stringify({ name: 'x'.repeat(10_000_000) });
    expect(await errorOf(await create(body))).toMatchObject([413, { code: 'payload_too_large' }]);
    const chunked = new ReadableStream({ start: (controller) => (controller.enqueue(Buffer.from(body)), controller.close()) });
    const response = await toy.get('/api/v1/agents', {
      method: 'POST',
      key: 'ada-key',
      body: chunked,
      duplex: 'half',
      headers: { 'Content-Type': 'application/json' },
    });
    expect(response.status).toBe(413);
  });

  test('a route may have a limit of its own', async () => {
    expect((await toy.post('/api/v1/fail', { how: 'x'.repeat(80) }, { key: 'ada-key' })).status).toBe(200);
    expect((await toy.post('/api/v1/fail', { how: 'x'.repeat(100) }, { key: 'ada-key' })).status).toBe(413);
  });

  test("a body that breaks off is nobody's error", async () => {
    const before = toy.logged.length;
    const socket = connect(toy.port, '127.0.0.1');
    socket.write(
      'POST /api/v1/agents HTTP/1.1\r\nHost: x\r\nX-API-Key: ada-key\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"na',
    );
    await once(toy.server, 'request');
    socket.destroy();
    await until(() => toy.logged.length > before, 'a line in the log');
    expect(toy.logged.at(-1)).toMatchObject({ level: 30, status: 499, route: '/api/v1/users/:user/agents' });
  });

  test('a client that hangs up on a plain call is gone, and no error', async () => {
    let begun = (): void => {};
    const running = new Promise<void>((resolve) => (begun = resolve));
    const own = await startToy({
      onCreate: async (signal) => {
        begun();
        await new Promise((resolve) => signal.addEventListener('abort', resolve));
        signal.throwIfAborted();
      },
    });
    const hangUp = new AbortController();
    const call = own.post('/api/v1/agents', { name: 'a' }, { key: 'ada-key', signal: hangUp.signal }).catch(() => undefined);
    await running;
    hangUp.abort();
    await call;
    await until(() => own.logged.length > 0, 'a line in the log');
    expect(own.logged).toEqual([expect.objectContaining({ level: 30, status: 499, msg: 'request' })]);
    await own.close();
  });
});
