import { Validator } from '@seriousme/openapi-schema-validator';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';

let app: TestApp;
let user: Awaited<ReturnType<TestApp['user']>>;
beforeAll(async () => {
  app = await startApp();
  user = await app.user('edgar');
  await app.agent(user, 'a');
  await app.ready(user);
});
afterAll(() => app.stop());

describe('the edge of the whole app', () => {
  test('health answers as each seed describes it, at its own path and without a key', async () => {
    expect((await app.get('/health')).json).toEqual({ status: 'ok' });
    for (const path of ['/api/v1/health', '/api/health'])
      expect((await app.get(path)).json).toMatchObject({ status: 'ok', service: 'berth', version: expect.any(String) });
    expect((await app.get('/ready')).json).toMatchObject({ status: 'ready' });
    for (const path of ['/metrics', '/api/v1/metrics'])
      expect((await app.get(path)).text).toContain('http_request_duration_seconds_bucket');
  });

  test('the document is OpenAPI 3.1 to an independent validator', async () => {
    const document = (await app.get('/openapi.json')).json;
    expect(document.openapi).toBe('3.1.0');
    expect(await new Validator().validate(document)).toMatchObject({ valid: true });
  });

  test('every pattern of the document is an expression by itself, and fits its own example', async () => {
    const found = patternsIn((await app.get('/openapi.json')).json);
    expect(found.length).toBeGreaterThan(5);
    expect(found.filter(({ pattern }) => /(?<!\\)\/[a-z]*$/.test(pattern))).toEqual([]);
    const misfits = found.filter(({ pattern, example }) => {
      const expression = new RegExp(pattern, 'u');
      return example !== undefined && !expression.test(example);
    });
    expect(misfits).toEqual([]);
    expect(found.find(({ example }) => example === 'demo/echo')).toBeDefined();
  });

  test('a route that waits for an instance or the engine says that it may fail for them', async () => {
    const { paths } = (await app.get('/openapi.json')).json;
    const ofUser = '/api/v1/users/{user}';
    const waiting = [
      paths[`${ofUser}/agents/{agent}/chat`].post,
      paths[`${ofUser}/agents/{agent}/chat/stream`].post,
      paths['/v1/chat/completions'].post,
      paths[`${ofUser}/agents/{agent}/ping`].get,
    ];
    for (const { responses } of waiting) expect(Object.keys(responses)).toEqual(expect.arrayContaining(['502', '503', '504']));
    expect(Object.keys(paths[`${ofUser}/keys`].get.responses)).not.toContain('504');
  });

  test.each([
    ['GET', '/agents'],
    ['GET', '/agents/a'],
    ['GET', '/agents/a/ping'],
    ['GET', '/agents/a/connect'],
    ['GET', '/deploy/status'],
    ['GET', '/usage'],
    ['GET', '/logs'],
    ['GET', '/keys'],
  ])('%s %s answers alike in its canonical, flat and short forms', async (method, path) => {
    const forms = [
      `/api/v1/users/edgar${path}`,
      `/api/v1/users/${user.id}${path}`,
      `/api/v1/users/me${path}`,
      `/api/users/me${path}`,
      `/api/v1${path}`,
      `/api${path}`,
    ];
    const answers = await Promise.all(forms.map((form) => app.call(method, form, { key: user.key })));
    expect(answers.map((answer) => answer.status)).toEqual(forms.map(() => 200));
    const shapes = answers.map((answer) => Object.keys(answer.json).toSorted().join());
    expect(new Set(shapes).size).toBe(1);
  });

  test('an admin acts for the user named in X-Workspace-ID', async () => {
    expect((await app.get('/api/agents', app.adminKey, { 'x-workspace-id': 'edgar' })).json.data).toHaveLength(1);
    expect((await app.get('/api/agents', app.adminKey)).status).toBe(400);
    expect((await app.get('/api/agents', user.key, { 'x-workspace-id': 'somebody' })).status).toBe(404);
  });

  test("another user's thing answers as one that never was", async () => {
    const stranger = await app.user();
    const strip = (answer: { status: number; json: object }) => ({ status: answer.status, ...answer.json, request_id: '' });
    const real = await app.get('/api/v1/users/edgar/agents/a', stranger.key);
    const never = await app.get('/api/v1/users/nobody/agents/b', stranger.key);
    expect(strip(real)).toEqual(strip(never));
  });

  test('a create repeated with its Idempotency-Key is the same create, key included', async () => {
    const headers = { 'idempotency-key': 'create-1' };
    const first = await app.post('/api/v1/agents', user.key, { name: 'once' }, headers);
    const again = await app.post('/api/v1/agents', user.key, { name: 'once' }, headers);
    expect(again.json).toEqual(first.json);
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect((await app.post('/api/v1/agents', user.key, { name: 'twice' }, headers)).status).toBe(422);
    const rows = await app.database.db.selectFrom('idempotency_keys').selectAll().execute();
    expect(JSON.stringify(rows)).not.toContain(first.json.api_key);
    expect(Buffer.concat(rows.map((row) => row.answer ?? Buffer.alloc(0))).includes(first.json.api_key)).toBe(false);
  });

  test('/docs is served from here alone', async () => {
    const page = await app.get('/docs');
    expect(page.headers.get('content-security-policy')).toContain("default-src 'none'");
    expect(page.text).not.toMatch(/https?:\/\//);
    for (const asset of page.text.matchAll(/(?:src|href)="([^"]+)"/g)) {
      if (!asset[1]?.startsWith('data:')) expect((await app.get(asset[1] ?? '')).status).toBe(200);
    }
  });
});

interface Pattern {
  pattern: string;
  example?: string;
}

function patternsIn(part: unknown): Pattern[] {
  if (typeof part !== 'object' || part === null) return [];
  const inner = Object.values(part).flatMap(patternsIn);
  return typeof (part as Partial<Pattern>).pattern === 'string' ? [part as Pattern, ...inner] : inner;
}
