import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type ErrorBody, errorOf, startToy, type Toy, until } from './toy.js';

/** Sends bytes as they are and collects what comes back until the server closes or `enough`. */
async function raw(port: number, text: string | Buffer, enough: (received: string) => boolean = () => false): Promise<string> {
  const socket = connect(port, '127.0.0.1');
  let received = '';
  let closed = false;
  socket.on('data', (chunk) => (received += chunk.toString('latin1')));
  socket.on('close', () => (closed = true));
  socket.on('error', () => (closed = true));
  socket.write(text);
  await until(() => closed || enough(received), 'an answer');
  socket.destroy();
  return received;
}

describe('the edge', () => {
  let toy: Toy;
  beforeAll(async () => {
    toy = await startToy();
  });
  afterAll(() => toy.close());

  describe('paths', () => {
    test.each([
      '/api/v1/users/ada/agents',
      '/api/v1/users/usr_ada/agents',
      '/api/v1/users/me/agents',
      '/api/users/me/agents',
      '/api/v1/agents',
      '/api/agents',
      '/api/agents/',
      '/api/agents?limit=3',
    ])('%s reaches the agents of the caller', async (path) => {
      const response = await toy.get(path, { key: 'ada-key' });
      expect([response.status, await response.json()]).toEqual([200, { data: [{ name: 'helper', user: 'usr_ada' }] }]);
    });

    test.each(['/health', '/api/health', '/api/v1/health', '/health/'])('%s is the public health', async (path) => {
      expect(await (await toy.get(path)).json()).toEqual({ status: 'ok' });
    });

    test('a canonical route wins over a flat one, by method', async () => {
      expect(await (await toy.get('/api/v1/tiers', { key: 'ada-key' })).json()).toEqual({ status: 'user' });
      expect((await toy.post('/api/v1/agents', { name: 'a' }, { key: 'ada-key' })).status).toBe(201);
    });

    // Clients resolve `…/agents/helper/files/..` before they send it: what was meant for a file would name its agent.
    test('what deletes is not led to another thing by a path that a client has resolved', async () => {
      const url = new URL('/api/agents/helper/files/..', 'http://localhost');
      expect(url.pathname).toBe('/api/agents/helper/');
      const response = await toy.get(url.pathname, { method: 'DELETE', key: 'ada-key' });
      expect([response.status, await response.json()]).toMatchObject([
        400,
        { fields: [{ path: 'path', message: expect.stringMatching(/slash at its end/) }] },
      ]);
    });

    test.each([
      '/',
      '/nothing',
      '/api',
      '/api/v1',
      '/api/v1/nothing',
      '/api/v1/users//agents',
      '/v1/nothing/x',
      '/api/v1/v1/chat/completions',
    ])('%s is no route', async (path) => {
      const response = await toy.get(path, { key: 'ada-key' });
      const body = (await response.json()) as ErrorBody & { error: { code: string } };
      expect([response.status, path.startsWith('/v1/') ? body.error.code : body.code]).toEqual([
        404,
        path.startsWith('/v1/') ? 'unknown_url' : 'no_route',
      ]);
    });

    test.each([
      ['PUT', '/api/v1/users/me/agents', 'GET, HEAD, POST'],
      ['PUT', '/api/v1/agents', 'GET, HEAD, POST'],
      ['POST', '/health', 'GET, HEAD'],
      ['PURGE', '/api/agents/helper', 'GET, HEAD, DELETE'],
    ])('%s %s is a wrong method', async (method, path, allow) => {
      const response = await toy.get(path, { method, key: 'ada-key' });
      expect(response.headers.get('allow')).toBe(allow);
      expect(await errorOf(response)).toMatchObject([405, { code: 'method_not_allowed' }]);
    });

    test('HEAD answers like GET, without the body', async () => {
      const response = await toy.get('/api/v1/agents', { method: 'HEAD', key: 'ada-key' });
      expect([response.status, await response.text(), response.headers.get('content-type')]).toEqual([
        200,
        '',
        'application/json',
      ]);
      expect((await toy.get('/api/v1/agents', { method: 'HEAD' })).status).toBe(401);
    });

    test('OPTIONS names the methods', async () => {
      const response = await toy.get('/api/v1/agents/helper', { method: 'OPTIONS' });
      expect([response.status, response.headers.get('allow')]).toEqual([204, 'GET, HEAD, DELETE, OPTIONS']);
      expect((await toy.get('/nothing', { method: 'OPTIONS' })).status).toBe(404);
    });

    test.each([
      ['/api/v1/users/me/agents/..', 'path.agent'],
      ['/api/v1/users/../agents', 'path.user'],
      ['/api/v1/users/me/agents/%2e%2e', 'path.agent'],
      ['/api/v1/users/me/agents/a%2Fb', 'path.agent'],
      ['/api/v1/users/me/agents/a%5cb', 'path.agent'],
      ['/api/v1/users/me/agents/a%00b', 'path.agent'],
      ['/api/v1/users/me/agents/a%0ab', 'path.agent'],
      ['/api/v1/users/me/agents/%ff%fe', 'path.agent'],
      ['/api/v1/users/me/agents/%', 'path.agent'],
      [`/api/v1/users/me/agents/${'n'.repeat(10_000)}`, 'path.agent'],
      ['/api/v1/agents/..', 'path.agent'],
      ['/api/v1/agents?limit=%00', 'query.limit'],
      ['/api/v1/agents?limit=%zz', 'query.limit'],
      ['/api/v1/agents?limit=0', 'query.limit'],
      ['/api/v1/agents?limit=1&limit=2', 'query.limit'],
    ])('%s is refused by the name of the parameter', async (path, field) => {
      const received = await raw(
        toy.port,
        Buffer.from(`GET ${path} HTTP/1.1\r\nHost: x\r\nX-API-Key: ada-key\r\nConnection: close\r\n\r\n`, 'latin1'),
      );
      expect(received).toMatch(/^HTTP\/1.1 400 /);
      expect(JSON.parse(received.slice(received.indexOf('{')).replace(/\r\n0\r\n[^]*$/, ''))).toMatchObject({
        code: 'invalid_request',
        fields: [{ path: field }],
      });
    });

    test('an emoji is a name like another: decoded once', async () => {
      expect((await toy.get('/api/v1/agents/%F0%9F%A6%8A', { key: 'ada-key' })).status).toBe(404);
      expect((await toy.get('/api/v1/agents/hel%70er', { key: 'ada-key' })).status).toBe(200);
      expect((await toy.get('/api/v1/agents/hel%2570er', { key: 'ada-key' })).status).toBe(404);
    });

    test('an absolute request target is routed by its path', async () => {
      const received = await raw(toy.port, 'GET http://berth.test/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
      expect(received).toMatch(/^HTTP\/1.1 200 /);
    });
  });

  describe('answers', () => {
    test("every answer has a request id, the caller's own where it is sane", async () => {
      const idOf = async (offered?: string) => {
        const response = await toy.get('/nothing', { headers: offered === undefined ? {} : { 'X-Request-Id': offered } });
        const { request_id } = (await response.json()) as ErrorBody;
        expect(response.headers.get('x-request-id')).toBe(request_id);
        return request_id;
      };
      expect(await idOf('trace-1.a:b')).toBe('trace-1.a:b');
      for (const bad of [undefined, 'a b', 'x'.repeat(129), '<script>']) expect(await idOf(bad)).toMatch(/^req_[0-9a-z]{26}$/);
    });

    test('the headers that keep browsers in check are on all of them', async () => {
      for (const response of [
        await toy.get('/health'),
        await toy.get('/nothing'),
        await toy.get('/api/agents', { key: 'ada-key' }),
      ]) {
        expect(Object.fromEntries(response.headers)).toMatchObject({
          'x-content-type-options': 'nosniff',
          'referrer-policy': 'no-referrer',
          'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
          'cross-origin-opener-policy': 'same-origin',
          'cache-control': 'no-store',
        });
        expect(response.headers.get('access-control-allow-origin')).toBeNull();
      }
    });

    test('an error of ours is one sentence; its cause is in the log alone', async () => {
      const response = await toy.post('/api/v1/fail', { how: 'throw' }, { key: 'ada-key' });
      const [status, body] = await errorOf(response);
      expect([status, body]).toEqual([
        500,
        { error: 'internal server error', detail: 'internal server error', code: 'internal', request_id: body.request_id },
      ]);
      expect(toy.logged.at(-1)).toMatchObject({
        level: 50,
        request_id: body.request_id,
        route: '/api/v1/fail',
        err: { message: 'the secret cause' },
      });
      expect((await toy.post('/api/v1/fail', { how: 'odd' }, { key: 'ada-key' })).status).toBe(500);
    });

    test('503 keeps its message and says when to come back', async () => {
      const response = await toy.post('/api/v1/fail', { how: 'unavailable' }, { key: 'ada-key' });
      expect(response.headers.get('retry-after')).toBe('3');
      expect(await errorOf(response)).toMatchObject([503, { error: 'the agent is not ready', code: 'unavailable' }]);
      expect(toy.logged.at(-1)).toMatchObject({ level: 40, err: { message: 'the secret cause' } });
    });

    test('what a client did wrong is one line at info, without its cause', async () => {
      expect((await toy.post('/api/v1/fail', { how: 'conflict' }, { key: 'ada-key' })).status).toBe(409);
      expect(toy.logged.at(-1)).toMatchObject({ level: 30, status: 409, code: 'conflict', msg: 'request' });
      expect(JSON.stringify(toy.logged.at(-1))).not.toContain('secret cause');
    });

    test("/v1 answers OpenAI's error object", async () => {
      const call = async (body: string, init = {}) => {
        const response = await toy.post('/v1/chat/completions', body, init);
        return [response.status, await response.json()];
      };
      expect(await call('{}')).toEqual([
        401,
        {
          error: {
            message: 'no API key: send X-API-Key or Authorization: Bearer',
            type: 'invalid_request_error',
            code: 'invalid_api_key',
            param: null,
          },
        },
      ]);
      expect(await call('{}', { key: 'ada-key' })).toEqual([
        400,
        {
          error: {
            message: 'invalid request: model: is required',
            type: 'invalid_request_error',
            code: 'invalid_request',
            param: 'model',
          },
        },
      ]);
      expect(await call('{"model":"x"}', { key: 'ada-key' })).toMatchObject([404, { error: { code: 'model_not_found' } }]);
    });

    test('the log has method, pattern, status, time and ids, and nothing of the request', async () => {
      await toy.get('/api/v1/agents/helper?limit=hunter2', { key: 'ada-key', headers: { 'X-Request-Id': 'seen' } });
      const { ms, time: _, ...line } = toy.logged.at(-1)!;
      expect(line).toEqual({
        level: 30,
        method: 'GET',
        route: '/api/v1/users/:user/agents/:agent',
        status: 200,
        request_id: 'seen',
        key_id: 'key_ada',
        msg: 'request',
      });
      expect(ms).toBeGreaterThan(0);
      expect(JSON.stringify(toy.logged)).not.toMatch(/hunter2|ada-key/);
    });
  });

  describe('hostile connections', () => {
    test('a flood of headers is cut off', async () => {
      const flood = Array.from({ length: 5000 }, (_, i) => `X-${i}: ${'y'.repeat(50)}`).join('\r\n');
      expect(await raw(toy.port, `GET /health HTTP/1.1\r\nHost: x\r\n${flood}\r\n\r\n`)).toMatch(
        /^HTTP\/1.1 431 [^]*"code":"invalid_request"/,
      );
      expect((await toy.get('/health')).status).toBe(200);
    });

    test('a header or a body that comes too slowly is cut off', async () => {
      const slow = await startToy({}, {}, { headersTimeout: 200, requestTimeout: 400, connectionsCheckingInterval: 50 });
      const head = 'POST /api/v1/agents HTTP/1.1\r\nHost: x\r\nX-API-Key: ada-key\r\nContent-Type: application/json\r\n';
      expect(await raw(slow.port, head)).toMatch(/^HTTP\/1.1 408 [^]*"code":"invalid_request"/);
      await raw(slow.port, `${head}Content-Length: 100\r\n\r\n{`);
      await slow.close();
    });

    test.each([
      'GET /health HTTP/1.1\r\n\r\n',
      'GET /caf\u00e9 HTTP/1.1\r\nHost: x\r\n\r\n',
      'GET /health HTTP/1.1\r\nHost: a b\r\n\r\n',
      'nonsense\r\n\r\n',
      'GET * HTTP/1.1\r\nHost: x\r\n\r\n',
    ])('%j is a bad request', async (text) => {
      expect(await raw(toy.port, text, (received) => received.includes('}'))).toMatch(
        /^HTTP\/1.1 400 [^]*"code":"invalid_request"/,
      );
    });
  });
});

describe('CORS, where it is on', () => {
  let toy: Toy;
  beforeAll(async () => {
    toy = await startToy({}, { config: { corsOrigins: ['https://app.example'], trustedProxies: [] } });
  });
  afterAll(() => toy.close());

  test('a listed origin may call and is told what it may send', async () => {
    const preflight = await toy.get('/api/v1/agents', {
      method: 'OPTIONS',
      headers: { Origin: 'https://app.example', 'Access-Control-Request-Method': 'POST' },
    });
    expect(preflight.status).toBe(204);
    expect(preflight.headers.get('access-control-allow-origin')).toBe('https://app.example');
    expect(preflight.headers.get('access-control-allow-methods')).toBe('GET, HEAD, POST');
    expect(preflight.headers.get('access-control-allow-headers')).toContain('X-API-Key');
    const answer = await toy.get('/api/v1/agents', { key: 'ada-key', headers: { Origin: 'https://app.example' } });
    expect([answer.headers.get('access-control-allow-origin'), answer.headers.get('vary')]).toEqual([
      'https://app.example',
      'Origin',
    ]);
  });

  test('another origin gets nothing', async () => {
    const answer = await toy.get('/api/v1/agents', { key: 'ada-key', headers: { Origin: 'https://evil.example' } });
    expect(answer.headers.get('access-control-allow-origin')).toBeNull();
  });
});
