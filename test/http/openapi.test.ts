import { Validator } from '@seriousme/openapi-schema-validator';
import { z } from '@hono/zod-openapi';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { docsRoutes } from '../../src/http/docs.js';
import { HttpMetrics } from '../../src/http/metrics.js';
import { metricsRoutes } from '../../src/http/metrics.routes.js';
import { openApiDocument, openApiRoutes } from '../../src/http/openapi.js';
import { createRouter, route } from '../../src/http/router.js';
import { startToy, type Toy } from './toy.js';

const INFO = { title: 'Toy', version: '1' };

describe('what the edge says of itself', () => {
  let toy: Toy;
  const metrics = new HttpMetrics();
  beforeAll(async () => {
    toy = await startToy({}, { metrics }, {}, (app) => {
      app.route('/', openApiRoutes(app, INFO));
      app.route('/', docsRoutes());
      app.route('/', metricsRoutes(metrics));
    });
  });
  afterAll(() => toy.close());

  test('/openapi.json is valid OpenAPI 3.1 to an independent validator', async () => {
    const document = (await (await toy.get('/openapi.json')).json()) as Record<string, never>;
    expect(await new Validator().validate(document)).toEqual({ valid: true });
    expect(document['openapi']).toBe('3.1.0');
  });

  test('it is kept, and answered 304 to who has it', async () => {
    const first = await toy.get('/openapi.json');
    const again = await toy.get('/api/openapi.json', { headers: { 'If-None-Match': first.headers.get('etag')! } });
    expect([again.status, await again.text()]).toEqual([304, '']);
  });

  test('a route carries who may call it, its parameters and the errors it may answer', () => {
    const document = openApiDocument(toy.app, INFO);
    const operation = document.paths!['/api/v1/users/{user}/agents/{agent}']!.get!;
    expect(operation).toMatchObject({
      'x-access': 'agent',
      operationId: 'getUsersByUserAgentsByAgent',
      security: [{ apiKey: [] }, { bearer: [] }],
    });
    expect(operation.parameters).toMatchObject([
      { name: 'user', in: 'path', required: true },
      { name: 'agent', in: 'path', required: true },
      { name: 'X-Workspace-ID', in: 'header', required: false },
    ]);
    expect(Object.keys(operation.responses!)).toEqual(['200', '400', '401', '404', '429', '500', '503']);
    const post = document.paths!['/api/v1/users/{user}/agents']!.post!;
    const failures = ['400', '401', '403', '404', '409', '413', '415', '422', '429', '500', '503'];
    expect(Object.keys(post.responses!)).toEqual(['201', ...failures]);
    expect(post.parameters).toMatchObject([
      { name: 'user' },
      { name: 'X-Workspace-ID', in: 'header', required: false },
      { name: 'Idempotency-Key' },
    ]);
    expect(Object.keys(document.paths!['/metrics']!.get!.responses!)).toEqual(['200', '400', '401', '403', '500']);
    expect(document.paths!['/health']!.get).toMatchObject({ 'x-access': 'public', security: [] });
    expect(Object.keys(document.paths!)).not.toContain('/docs');
  });

  test('the document says which shorter paths there are', () => {
    const { description } = openApiDocument(toy.app, { ...INFO, description: 'A toy.' }).info;
    expect(description).toMatch(/^A toy\.\n\n.*same handlers/);
    expect(description).toContain('`/api/agents`');
  });

  test('a parameter that takes the rest of the path is written plainly', () => {
    const app = createRouter();
    app.openapi(
      route({
        method: 'get',
        path: '/users/{user}/files/{path}{.+}',
        access: 'user',
        responses: { 200: { description: 'A file.' } },
      }),
      (c) => c.text(c.req.param('path')),
    );
    expect(Object.keys(openApiDocument(app, INFO).paths!)).toEqual(['/users/{user}/files/{path}']);
  });

  test('two operations of one id are a mistake that is told', () => {
    const app = createRouter();
    const twice = (path: string) =>
      route({
        method: 'get',
        path,
        access: 'any',
        operationId: 'same',
        responses: { 200: { description: 'Fine.', content: { 'text/plain': { schema: z.string() } } } },
      });
    app.openapi(twice('/a'), (c) => c.text('a'));
    app.openapi(twice('/b'), (c) => c.text('b'));
    expect(() => openApiDocument(app, INFO)).toThrow('operation id same is that of get /a and of get /b');
  });

  test('/docs is made of files of this machine, and its policy lets it load nothing else', async () => {
    const page = await toy.get('/docs');
    expect(page.headers.get('content-type')).toBe('text/html; charset=utf-8');
    expect(page.headers.get('content-security-policy')).toMatch(/^default-src 'none'; script-src 'self'; style-src 'self';/);
    const html = await page.text();
    expect(html).not.toMatch(/https?:\/\//);
    const parts = [...html.matchAll(/(?:src|href)="([^"]+)"/g)].map((match) => match[1]!);
    expect(parts).toEqual(['/docs/swagger-ui.css', '/docs/swagger-ui-bundle.js', '/docs/init.js']);
    for (const part of parts) {
      const response = await toy.get(part);
      expect([part, response.status]).toEqual([part, 200]);
      expect((await response.text()).length).toBeGreaterThan(100);
      expect((await toy.get(part, { headers: { 'If-None-Match': response.headers.get('etag')! } })).status).toBe(304);
    }
  });

  test('/metrics counts by pattern, and is open to this machine only', async () => {
    await toy.get('/api/v1/agents/helper', { key: 'ada-key' });
    await toy.get('/some/nonsense');
    const response = await toy.get('/metrics');
    const text = await response.text();
    expect(response.headers.get('content-type')).toContain('text/plain');
    expect(text).toContain(
      'http_request_duration_seconds_count{route="/api/v1/users/:user/agents/:agent",method="GET",status="2xx"} 1',
    );
    expect(text).toContain('http_request_duration_seconds_count{route="none",method="GET",status="4xx"} 1');
    expect(text).toContain('http_requests_in_flight 1');
    const forwarded = { 'X-Forwarded-For': '9.9.9.9' };
    expect((await toy.get('/metrics', { headers: forwarded })).status).toBe(401);
    expect((await toy.get('/metrics', { headers: forwarded, key: 'ada-key' })).status).toBe(403);
    expect((await toy.get('/metrics', { headers: forwarded, key: 'admin-key' })).status).toBe(200);
  });
});
