import { Readable } from 'node:stream';
import { z } from '@hono/zod-openapi';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { streamBytes } from '../../src/http/bytes.js';
import { bodyStreamOf } from '../../src/http/request-stream.js';
import { route, type Router } from '../../src/http/router.js';
import { openRequest } from '../support/http-stream.js';
import { startToy, type Toy, until } from './toy.js';

let toy: Toy;
/** What the server held against its clients. */
const complaints: string[] = [];

/** `PUT /echo` sends back what comes, as it comes; `PUT /refuse` answers without a look at it. */
function streamRoutes(app: Router): void {
  for (const path of ['/echo', '/refuse']) {
    app.openapi(
      route({
        method: 'put',
        path,
        access: 'any',
        streamsBody: true,
        tags: ['Toy'],
        summary: path,
        request: { body: { content: { '*/*': { schema: z.string() } } } },
        responses: { 200: { description: 'Bytes.', content: { '*/*': { schema: z.string() } } } },
      }),
      (c) => {
        if (path === '/refuse') return c.body('no', 200);
        return streamBytes(c, {
          status: 200,
          headers: { 'X-Toy': 'echo' },
          body: Readable.from(bodyStreamOf(c)),
          lengthBytes: undefined,
        });
      },
    );
  }
}

beforeAll(async () => {
  const impatient = { requestTimeout: 300, headersTimeout: 200, connectionsCheckingInterval: 50 };
  const pace = { windowMs: 60_000, windowBytes: 1, stalledMs: 60_000 };
  toy = await startToy({}, { pace }, impatient, streamRoutes);
  toy.server.on('clientError', (error: Error & { code?: string }) => complaints.push(error.code ?? ''));
});
afterAll(() => toy.close());

const put = (path: string, headers: Record<string, string | number> = {}) =>
  openRequest(toy.url, 'PUT', path, { 'X-API-Key': 'ada-key', ...headers });

test('a streamed body may take longer than the server gives whole requests', async () => {
  const { request, answer } = put('/echo');
  request.write('first ');
  await until(() => complaints.includes('ERR_HTTP_REQUEST_TIMEOUT'), 'the time of whole requests to be over');
  request.end('last');
  const { status, bytes, headers, broken } = await answer;
  expect([status, bytes.toString(), headers['x-toy'], broken]).toEqual([200, 'first last', 'echo', false]);
});

test('any other body may not', async () => {
  const { request, answer } = openRequest(toy.url, 'POST', '/api/v1/agents', {
    'X-API-Key': 'ada-key',
    'Content-Type': 'application/json',
    'Content-Length': 100,
  });
  request.write('{');
  expect(await answer.then(({ status }) => status)).toBe(408);
});

test('what is streamed goes through as it comes, of any type, and no faster than it is taken', async () => {
  const { request, answer } = put('/echo', { 'Content-Type': 'nonsense' });
  let held = 0;
  for (let i = 0; i < 400; i++) {
    if (request.write(Buffer.alloc(64 * 1024, i))) continue;
    held += 1;
    await new Promise((resolve) => request.once('drain', resolve));
  }
  request.end();
  const { bytes } = await answer;
  expect([bytes.length, held > 0]).toEqual([400 * 64 * 1024, true]);
});

test('an answer may come before the body was read', async () => {
  for (const size of [10, 10_000_000]) {
    const { request, answer } = put('/refuse', { 'Content-Length': size });
    request.on('error', () => {});
    request.end(Buffer.alloc(size));
    expect((await answer).status).toBe(200);
  }
});
