import { readdir } from 'node:fs/promises';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId } from '../../src/lib/ids.js';
import { type Answer, startApp, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';
import { until } from '../support/until.js';

const NAMES_REFUSED = [
  '',
  '-a',
  'A',
  'a b',
  'ä',
  '😀',
  'a/b',
  '..',
  'a\0b',
  'me',
  'memories',
  'usr_x',
  'agt_1',
  'dep_',
  'x'.repeat(65),
  'y'.repeat(10_000),
];

describe.each(databaseKinds)('users, tiers, keys and agents on %s', (database) => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp({ database });
  });
  afterAll(() => app.stop());

  describe('users', () => {
    test('a user is made once, with a key shown once, and found by id and name', async () => {
      const made = await app.post('/api/v1/users', app.adminKey, { name: 'grace', email: 'grace@example.com', tier: 'pro' });
      expect(made.status).toBe(201);
      expect(made.json).toMatchObject({ name: 'grace', email: 'grace@example.com', tier: 'pro', status: 'active' });
      expect(made.json.api_key).toMatch(/^berth_usr_/);
      for (const ref of [made.json.id, 'grace', 'me']) {
        const found = await app.get(`/api/v1/users/${ref}`, made.json.api_key);
        expect(found.json).toMatchObject({ id: made.json.id, agents: [] });
        expect(found.text).not.toContain(made.json.api_key);
      }
      expect((await app.post('/api/v1/users', app.adminKey, { name: 'grace' })).status).toBe(409);
    });

    test('two creates of one name at once: one wins, the other is told', async () => {
      const answers = await Promise.all([1, 2, 3, 4].map(() => app.post('/api/v1/users', app.adminKey, { name: 'twins' })));
      expect(answers.map((answer) => answer.status).toSorted()).toEqual([201, 409, 409, 409]);
    });

    test.each(NAMES_REFUSED.map((name) => [name.length > 70 ? `${name.length} characters` : JSON.stringify(name), name]))(
      'the name %s is refused, naming the field and not the value',
      async (_, name) => {
        const answer = await app.post('/api/v1/users', app.adminKey, { name });
        expect(answer.status).toBe(400);
        expect(answer.json.fields[0].path).toBe('name');
        if (name.length > 70 || /[^a-z_0-9]/i.test(name)) expect(answer.text).not.toContain(JSON.stringify(name));
      },
    );

    test('an unknown tier names those there are', async () => {
      const answer = await app.post('/api/v1/users', app.adminKey, { name: 'heidi', tier: 'gold' });
      expect(answer.status).toBe(400);
      expect(answer.text).toContain('free, pro, business');
      expect((await app.get('/api/v1/users/heidi', app.adminKey)).status).toBe(404);
    });

    test('a list goes on by cursor and shows everybody once', async () => {
      for (const n of [1, 2, 3]) await app.user(`paged${n}`);
      const seen: string[] = [];
      let path: string | undefined = '/api/v1/users?limit=2';
      while (path) {
        const answer: Answer = await app.get(path, app.adminKey);
        const { data, pagination } = answer.json;
        seen.push(...data.map((user: { name: string }) => user.name));
        expect(pagination.has_more).toBe(pagination.next_cursor !== null);
        path = pagination.next_cursor ? `/api/v1/users?limit=2&cursor=${pagination.next_cursor}` : undefined;
      }
      expect(new Set(seen).size).toBe(seen.length);
      expect(seen).toEqual(expect.arrayContaining(['paged1', 'paged2', 'paged3']));
      expect((await app.get('/api/v1/users?cursor=garbage', app.adminKey)).json.fields[0].path).toBe('cursor');
    });

    test('a change of tier guarded by an old version changes nothing', async () => {
      const user = await app.user(undefined, 'free');
      const path = `/api/v1/users/${user.id}/tier`;
      expect(
        (await app.call('PUT', path, { key: app.adminKey, body: { tier: 'pro' }, headers: { 'if-match': '"1"' } })).json.version,
      ).toBe(2);
      expect(
        (await app.call('PUT', path, { key: app.adminKey, body: { tier: 'free' }, headers: { 'if-match': '"1"' } })).status,
      ).toBe(412);
      expect((await app.get(`/api/v1/users/${user.id}`, app.adminKey)).json.tier).toBe('pro');
    });
  });

  describe('keys', () => {
    test('a key is listed masked, works, and is dead once revoked', async () => {
      const user = await app.user();
      const made = (await app.post('/api/v1/keys', user.key, { name: 'laptop' })).json;
      expect((await app.get('/api/v1/users/me', made.api_key)).status).toBe(200);
      const list = await app.get('/api/v1/keys', user.key);
      expect(list.text).not.toContain(made.api_key);
      expect(list.json.data.find((key: { id: string }) => key.id === made.id)).toMatchObject({
        name: 'laptop',
        status: 'active',
        masked: expect.stringContaining(made.api_key.slice(-4)),
      });
      expect((await app.call('DELETE', `/api/v1/keys/${made.id}`, { key: user.key })).status).toBe(204);
      expect((await app.get('/api/v1/users/me', made.api_key)).status).toBe(401);
    });

    test("another user's key cannot be revoked, and is answered like none", async () => {
      const [a, b] = [await app.user(), await app.user()];
      const made = (await app.post('/api/v1/keys', a.key, {})).json;
      expect((await app.call('DELETE', `/api/v1/keys/${made.id}`, { key: b.key })).status).toBe(404);
      expect((await app.get('/api/v1/users/me', made.api_key)).status).toBe(200);
    });

    test('a key with one character changed opens nothing', async () => {
      const user = await app.user();
      const last = user.key.at(-1) === 'A' ? 'B' : 'A';
      expect((await app.get('/api/v1/users/me', user.key.slice(0, -1) + last)).status).toBe(401);
      expect((await app.get('/api/v1/users/me', user.key)).status).toBe(200);
    });

    test('an admin makes an admin key and revokes it', async () => {
      const made = (await app.post('/api/v1/admin/keys', app.adminKey, { name: 'ops' })).json;
      expect((await app.get('/api/v1/users', made.api_key)).status).toBe(200);
      expect((await app.call('DELETE', `/api/v1/admin/keys/${made.id}`, { key: app.adminKey })).status).toBe(204);
      expect((await app.get('/api/v1/users', made.api_key)).status).toBe(401);
    });

    test('no key is in the database as it is', async () => {
      const user = await app.user();
      const secret = user.key.split('_').at(-1) ?? '';
      const rows = await app.database.db.selectFrom('api_keys').selectAll().execute();
      expect(JSON.stringify(rows)).not.toContain(secret);
    });
  });

  describe('agents', () => {
    test('several are made or none', async () => {
      const user = await app.user();
      const taken = await app.agent(user, 'taken');
      const answer = await app.post('/api/v1/agents', user.key, [{ name: 'fresh' }, { name: 'taken' }]);
      expect(answer.status).toBe(409);
      expect(answer.json.fields[0].path).toBe('name');
      const list = (await app.get('/api/v1/agents', user.key)).json;
      expect(list.data.map((agent: { id: string }) => agent.id)).toEqual([taken.id]);
      expect(list.pagination.total).toBe(1);
    });

    test.each<[unknown, string]>([
      [{ name: 'UPPER' }, 'name'],
      [[{ name: 'ok' }, { name: '😀' }], '1.name'],
      [{ agents: [{ name: 'ok', model: 'nonsense' }] }, 'agents.0.model'],
      [{ name: 'ok', extra: 1 }, 'extra'],
      [{ name: 'ok', isolation: 'none' }, 'isolation'],
      [{ name: 'ok', network: { mode: 'allowlist', hosts: ['10.0.0.1'] } }, 'network.hosts.0'],
      [[], 'body'],
      ['text', 'body'],
      [{}, 'name'],
    ])('%j is refused, naming %s', async (body, path) => {
      const user = await app.user();
      const answer = await app.post('/api/v1/agents', user.key, body);
      expect(answer.status).toBe(400);
      expect(answer.json.fields[0].path).toBe(path);
      expect((await app.get('/api/v1/agents', user.key)).json.data).toEqual([]);
    });

    test('a model that no provider serves is refused', async () => {
      const user = await app.user();
      const answer = await app.post('/api/v1/agents', user.key, { name: 'a', model: 'nowhere/gpt' });
      expect(answer.status).toBe(400);
      expect(answer.text).toContain('demo');
    });

    test('the tier is the limit, also for many at once, and a new tier holds at once', async () => {
      const user = await app.user(undefined, 'free');
      const answers = await Promise.all([1, 2, 3, 4, 5].map((n) => app.post('/api/v1/agents', user.key, { name: `a${n}` })));
      expect(answers.map((answer) => answer.status).toSorted()).toEqual([202, 202, 202, 403, 403]);
      expect(answers.find((answer) => answer.status === 403)?.json.code).toBe('limit_exceeded');
      await app.call('PUT', `/api/v1/users/${user.id}/tier`, { key: app.adminKey, body: { tier: 'pro' } });
      expect((await app.post('/api/v1/agents', user.key, { name: 'one-more' })).status).toBe(202);
    });

    test('all share one deployment but those that ask for their own, or whose network differs', async () => {
      const user = await app.user();
      const [a, b] = [await app.agent(user, 'a'), await app.agent(user, 'b')];
      const own = await app.agent(user, 'own', { isolation: 'dedicated' });
      const open = await app.agent(user, 'open', { network: { mode: 'open' } });
      expect(a.deploymentId).toBe(b.deploymentId);
      expect(new Set([a, own, open].map((agent) => agent.deploymentId)).size).toBe(3);
      const placed = (await app.get('/api/v1/agents/open', user.key)).json;
      expect(placed).toMatchObject({ isolation: 'dedicated', isolation_reason: expect.stringContaining('network policy') });
    });

    test('two creates of one name at once: one wins, the other is told', async () => {
      const user = await app.user();
      const answers = await Promise.all([1, 2].map(() => app.post('/api/v1/agents', user.key, { name: 'same' })));
      expect(answers.map((answer) => answer.status).toSorted()).toEqual([202, 409]);
    });

    test('rotate-key: the old key is dead at once, the new one works', async () => {
      const user = await app.user();
      const agent = await app.agent(user, 'a');
      expect((await app.get('/api/v1/agents/a', agent.key)).status).toBe(200);
      const rotated = (await app.post('/api/v1/agents/a/rotate-key', user.key, undefined)).json;
      expect((await app.get('/api/v1/agents/a', agent.key)).status).toBe(401);
      expect((await app.get('/api/v1/agents/a', rotated.api_key)).status).toBe(200);
    });

    test('a change is in the gateway without another container', async () => {
      const user = await app.user();
      const agent = await app.agent(user, 'a');
      await app.ready(user);
      const before = (await app.get('/api/v1/deploy/status', user.key)).json.deployments[0].instance.id;
      const changed = await app.call('PUT', '/api/v1/agents/a', {
        key: user.key,
        body: { instructions: 'be brief', description: null },
      });
      expect(changed.json).toMatchObject({ id: agent.id, instructions: 'be brief', version: 2 });
      await app.ready(user);
      expect(app.gateways.configs.get(before)?.agents[0]).toMatchObject({ id: 'a', instructions: 'be brief' });
    });

    test('a deleted agent is gone from the API, its key and its gateway; one of the same name is another', async () => {
      const user = await app.user();
      const [a] = [await app.agent(user, 'a'), await app.agent(user, 'b')];
      await app.ready(user);
      const instance = (await app.get('/api/v1/deploy/status', user.key)).json.deployments[0].instance.id;
      expect((await app.call('DELETE', '/api/v1/agents/a', { key: user.key })).status).toBe(202);
      expect((await app.get('/api/v1/agents/a', user.key)).status).toBe(404);
      expect((await app.get('/api/v1/agents/a', a.key)).status).toBe(401);
      await app.ready(user);
      expect(app.gateways.configs.get(instance)?.agents.map((agent) => agent.id)).toEqual(['b']);
      const again = await app.agent(user, 'a');
      await app.ready(user);
      expect(app.gateways.configs.get(instance)?.agents[0]).toMatchObject({ id: 'a', incarnation: again.id });
    });

    test('the last agent takes its deployment with it', async () => {
      const user = await app.user();
      await app.agent(user, 'only');
      await app.ready(user);
      expect((await app.call('DELETE', '/api/v1/agents/only', { key: user.key })).status).toBe(202);
      await until(
        async () => (await app.get('/api/v1/deploy/status', user.key)).json.deployments.length === 0,
        'the deployment to be gone',
      );
      expect((await app.get('/api/v1/deploy/status', user.key)).json).toMatchObject({ state: 'none', settled: true });
    });

    test('connect tells an OpenAI client all it needs', async () => {
      const user = await app.user();
      const agent = await app.agent(user, 'a');
      const { base_url, model } = (await app.get('/api/v1/agents/a/connect', agent.key)).json;
      expect(base_url).toBe(`${app.url}/v1`);
      const answer = await fetch(`${base_url}/chat/completions`, {
        method: 'POST',
        headers: { authorization: `Bearer ${agent.key}`, 'content-type': 'application/json' },
        body: JSON.stringify({ model, messages: [{ role: 'user', content: 'hi' }] }),
      });
      expect(await answer.json()).toMatchObject({
        object: 'chat.completion',
        model,
        choices: [{ message: { content: 'You said: hi' } }],
      });
    });
  });

  test('what an admin key was answered about a user goes with the user', async () => {
    const made = () => app.post('/api/v1/users', app.adminKey, { name: 'forgotten' }, { 'idempotency-key': 'make' });
    const { id, api_key: key } = (await made()).json;
    expect((await made()).headers.get('idempotency-replayed')).toBe('true');
    expect((await app.post(`/api/v1/users/${id}/keys`, app.adminKey, { name: 'k' }, { 'idempotency-key': 'make' })).status).toBe(
      201,
    );
    const agent = { name: 'a' };
    expect((await app.post(`/api/v1/users/${id}/agents`, app.adminKey, agent, { 'idempotency-key': 'make' })).status).toBe(202);
    await app.ready({ id, key });
    const asked = { model: `${id}/a`, messages: [{ role: 'user', content: 'remember me' }] };
    expect((await app.post('/v1/chat/completions', app.adminKey, asked, { 'idempotency-key': 'make' })).status).toBe(200);
    const kept = () => app.database.db.selectFrom('idempotency_keys').select('user_id').where('caller', 'like', 'admin:%');
    expect(await kept().execute()).toEqual(Array(4).fill({ user_id: id }));
    await app.call('DELETE', `/api/v1/users/${id}`, { key: app.adminKey });
    await until(async () => (await app.get(`/api/v1/users/${id}`, app.adminKey)).status === 404, 'the user to be gone');
    expect(await kept().execute()).toEqual([]);
    const again = await made();
    expect([again.status, again.headers.get('idempotency-replayed'), again.json.id === id]).toEqual([201, null, false]);
  });

  test('a deleted user leaves nothing: no container, volume, folder or row but a digest', async () => {
    const user = await app.user();
    await app.agent(user, 'a');
    await app.agent(user, 'own', { isolation: 'dedicated' });
    await app.ready(user);
    const chat = await app.post(
      '/api/v1/agents/a/chat',
      user.key,
      { messages: [{ role: 'user', content: 'remember me' }] },
      { 'idempotency-key': 'once' },
    );
    expect(chat.status).toBe(200);
    const { deployments } = (await app.get('/api/v1/deploy/status', user.key)).json as {
      deployments: { id: string; instance: { id: string } }[];
    };
    // The fake gateway asks no model, so what a call leaves is put there.
    await sql`insert into usage (id, user_id, deployment_id, instance_id, process_id, model, provider) values (${newId('use')}, ${user.id}, 'd', 'i', 'p', 'm', 'p')`.execute(
      app.database.db,
    );
    await sql`insert into usage_months (user_id, month, tokens) values (${user.id}, '2020-01', 1)`.execute(app.database.db);
    expect((await app.call('DELETE', `/api/v1/users/${user.id}`, { key: user.key })).json.status).toBe('deleting');
    expect((await app.get('/api/v1/users/me', user.key)).status).toBe(401);
    await until(async () => (await app.get(`/api/v1/users/${user.id}`, app.adminKey)).status === 404, 'the user to be gone');
    expect([...app.engine.instances.values()].filter((instance) => instance.spec.userId === user.id)).toEqual([]);
    expect([...app.engine.volumes.keys()].filter((volume) => deployments.some(({ id }) => volume.includes(id)))).toEqual([]);
    const folders = await readdir(app.config.linkDir);
    expect(folders.filter((folder) => deployments.some(({ instance }) => instance.id === folder))).toEqual([]);
    for (const table of [
      'users',
      'agents',
      'api_keys',
      'deployments',
      'instances',
      'conversations',
      'turns',
      'usage',
      'usage_months',
      'events',
      'event_counters',
      'idempotency_keys',
    ] as const) {
      const rows = await app.database.db.selectFrom(table).selectAll().execute();
      expect(JSON.stringify(rows), table).not.toContain(user.id);
    }
    expect((await app.post('/api/v1/users', app.adminKey, { name: user.name })).status).toBe(201);
  });
});
