import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openApiDocument } from '../../src/http/openapi.js';
import { route, type Router } from '../../src/http/router.js';
import { authorizationCases, checkCase, type KeyKind } from './authorization.js';
import { startToy, type Toy } from './toy.js';

const KEYS: Record<KeyKind, string | undefined> = {
  none: undefined,
  garbage: 'garbage \u00e9',
  revoked: 'revoked-key',
  expired: 'expired-key',
  'other user': 'bob-key',
  'other agent': 'ada-other-key',
  'foreign agent': 'bob-agent-key',
  agent: 'ada-helper-key',
  user: 'ada-key',
  admin: 'admin-key',
};

describe('who may call what', () => {
  let toy: Toy;
  beforeAll(async () => {
    toy = await startToy({}, { rates: { failuresPerAddress: 10_000, perAddress: 10_000 } });
  });
  afterAll(() => toy.close());

  test('every route answers every kind of key as it declares', async () => {
    const send = async (method: string, path: string, kind: KeyKind) => {
      const hasBody = method !== 'GET' && method !== 'DELETE';
      const response = await toy.get(path, {
        method,
        ...(KEYS[kind] !== undefined && { key: KEYS[kind] }),
        ...(hasBody && { body: '{}', headers: { 'Content-Type': 'application/json' } }),
      });
      const text = await response.text();
      return {
        status: response.status,
        body: response.headers.get('content-type') === 'application/json' ? (JSON.parse(text) as unknown) : text,
      };
    };
    const cases = authorizationCases(openApiDocument(toy.app, { title: 'Toy', version: '1' }));
    const wrong: (string | undefined)[] = [];
    for (const tried of cases) wrong.push(await checkCase(tried, { user: 'ada', agent: 'helper' }, send));
    expect(wrong.filter(Boolean)).toEqual([]);
    expect(cases).toHaveLength(12 * 10);
  });

  test('a route that declares nothing fails the generation', () => {
    expect(() => authorizationCases({ paths: { '/x': { get: {} } } })).toThrow('GET /x does not declare who may call it');
  });

  test('a router that was given a bare handler is refused at start', async () => {
    const backDoor = (app: Router) => {
      (app as unknown as { get(path: string, handler: () => Response): void }).get('/back-door', () => new Response('open'));
    };
    await expect(startToy({}, {}, {}, backDoor)).rejects.toThrow('routes that declare no access: GET /back-door');
  });

  test.each([
    ['user', '/agents'],
    ['agent', '/users/{user}/agents'],
    ['public', '/users/{user}'],
  ] as const)('a route for "%s" at %s cannot be declared', (access, path) => {
    expect(() => route({ method: 'get', path, access, responses: {} })).toThrow(path);
  });

  test('401 says how to authenticate, whatever was wrong', async () => {
    for (const key of [undefined, 'nonsense', 'x'.repeat(5000)]) {
      const response = await toy.get('/api/v1/agents', key === undefined ? {} : { key });
      expect(response.status).toBe(401);
      expect(response.headers.get('www-authenticate')).toBe('Bearer realm="berth"');
      expect(await response.json()).toMatchObject({ code: 'unauthorized' });
    }
  });

  test('the key may come as a bearer token; two different keys are refused, twice the same is fine', async () => {
    const status = async (headers: Record<string, string>) => (await toy.get('/api/v1/agents', { headers })).status;
    expect(await status({ Authorization: 'Bearer ada-key' })).toBe(200);
    expect(await status({ Authorization: 'bearer ada-key' })).toBe(200);
    expect(await status({ Authorization: 'Basic ada-key' })).toBe(401);
    expect(await status({ Authorization: 'Bearer ada-key', 'X-API-Key': 'ada-key' })).toBe(200);
    expect(await status({ Authorization: 'Bearer ada-key', 'X-API-Key': 'bob-key' })).toBe(400);
  });

  test('X-Workspace-ID chooses the user for an admin key only', async () => {
    const agents = async (path: string, key: string, workspace?: string) => {
      const response = await toy.get(path, { key, headers: workspace === undefined ? {} : { 'X-Workspace-ID': workspace } });
      return [
        response.status,
        (await response.json()) as { data?: { user: string }[]; error?: string; fields?: { path: string }[] },
      ] as const;
    };
    expect(await agents('/api/v1/agents', 'admin-key', 'bob')).toEqual([200, { data: [{ name: 'helper', user: 'usr_bob' }] }]);
    expect(await agents('/api/v1/users/ada/agents', 'admin-key', 'bob')).toEqual([
      200,
      { data: [{ name: 'helper', user: 'usr_ada' }] },
    ]);
    expect(await agents('/api/v1/agents', 'admin-key')).toMatchObject([400, { fields: [{ path: 'header.X-Workspace-ID' }] }]);
    expect(await agents('/api/v1/agents', 'admin-key', 'nobody')).toMatchObject([404, { error: 'user not found' }]);
    expect(await agents('/api/v1/agents', 'ada-key', 'usr_ada')).toMatchObject([200, {}]);
    expect(await agents('/api/v1/agents', 'ada-key', 'bob')).toMatchObject([404, { error: 'user not found' }]);
  });
});
