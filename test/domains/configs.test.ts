import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { everyMs, isActiveAt } from '../../src/domains/configs/heartbeat.schema.js';
import { mergePatch } from '../../src/domains/configs/merge.js';
import { type Answer, startApp, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';
import { until } from '../support/until.js';

describe.each(databaseKinds)('the config of an agent on %s', (database) => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp({ database, env: { AGENT_IMAGES: 'special:1, special:2', OPENAI_BASE_URL: 'http://127.0.0.1:9' } });
  });
  afterAll(() => app.stop());

  type Who = { id: string; key: string };
  const patch = (user: Who, body: unknown, headers: Record<string, string> = {}, agent = 'a'): Promise<Answer> =>
    app.call('PATCH', `/api/v1/users/me/agents/${agent}/config`, { key: user.key, body, headers });
  const config = async (user: Who, agent = 'a') => (await app.get(`/api/v1/agents/${agent}/config`, user.key)).json;

  async function owner(...names: string[]): Promise<Who> {
    const user = await app.user();
    for (const name of names) await app.agent(user, name);
    return user;
  }

  /** What the gateway of the agent was told last. */
  function told(userId: string, name = 'a'): Record<string, unknown> | undefined {
    const mine = [...app.engine.instances.values()].filter((one) => one.spec.userId === userId);
    const agents = mine.flatMap((one) => app.gateways.configs.get(one.spec.instanceId)?.agents ?? []);
    return agents.findLast((agent) => agent.id === name) as unknown as Record<string, unknown>;
  }

  const deployments = async (user: Who) =>
    (
      await sql<{ kind: string; network: unknown; limits: unknown; image: string | null; generation: number }>`
      select kind, network, limits, image, generation from deployments where user_id = ${user.id} order by id`.execute(
        app.database.db,
      )
    ).rows;

  test('shows defaults, what was set above them, and what is in force', async () => {
    const user = await owner('a');
    const first = await config(user);
    expect(first).toMatchObject({ agent: 'a', version: 1, document: {}, images: ['special:1', 'special:2'] });
    expect(first.config).toEqual(first.defaults);
    expect(first.defaults).toEqual({
      model: 'demo/echo',
      tools: { allow: null, deny: [] },
      max_steps: 16,
      sampling: {},
      shell: 'on',
      on_busy: 'queue',
      network: { mode: 'none' },
      heartbeat: { every: '30m', active_hours: null },
      env: {},
      limits: { memory_mib: 1024, cpu_millis: 1000, pids: 256 },
      image: null,
      isolation: 'shared',
    });
    const changed = await patch(user, {
      max_steps: 3,
      sampling: { temperature: 0.2, stop: ['END'] },
      env: { GREETING: 'hello' },
      heartbeat: { every: '2h', active_hours: { start: '09:00', end: '17:00', time_zone: 'Europe/Berlin' } },
    });
    expect(changed.status, changed.text).toBe(200);
    expect(changed.headers.get('etag')).toBe('"2"');
    expect(changed.json).toMatchObject({
      version: 2,
      applies: 'live',
      changed: ['env', 'heartbeat', 'max_steps', 'sampling'],
      replaces_container: [],
      config: { max_steps: 3, sampling: { temperature: 0.2, stop: ['END'] }, env: { GREETING: 'hello' } },
    });
  });

  test('null lets the default show through, at any depth; what is not named stays', async () => {
    const user = await owner('a');
    await patch(user, { max_steps: 3, env: { A: '1', B: '2' }, sampling: { seed: 7 }, tools: { deny: ['shell'] } });
    const after = await patch(
      user,
      { env: { A: null, C: '3' }, sampling: null, tools: { deny: null } },
      { 'content-type': 'application/merge-patch+json' },
    );
    expect(after.json.document).toEqual({ max_steps: 3, env: { B: '2', C: '3' } });
    expect((await patch(user, { env: { B: null, C: null }, max_steps: null })).json.document).toEqual({});
  });

  test('a patch that changes nothing is no new version, and no event', async () => {
    const user = await owner('a');
    const { version } = (await patch(user, { max_steps: 5 })).json;
    const events = async () =>
      (
        await sql<{ n: string }>`select count(*) as n from events where user_id = ${user.id} and type = 'config.updated'`.execute(
          app.database.db,
        )
      ).rows[0]?.n;
    const before = await events();
    expect((await patch(user, { max_steps: 5 })).json).toMatchObject({ version, changed: [], applies: 'live' });
    expect((await patch(user, {})).json.version).toBe(version);
    expect(await events()).toBe(before);
  });

  test('If-Match guards: the first of two wins, the other is told', async () => {
    const user = await owner('a');
    const guard = { 'if-match': `"${(await config(user)).version}"` };
    const answers = await Promise.all([3, 4].map((n) => patch(user, { max_steps: n }, guard)));
    expect(answers.map(({ status }) => status).toSorted()).toEqual([200, 412]);
  });

  test.each<[unknown, string]>([
    [{ temperature: 1 }, 'temperature'],
    [{ sampling: { temperature: 3 } }, 'sampling.temperature'],
    [{ sampling: { seed: 1.5 } }, 'sampling.seed'],
    [{ tools: { deny: ['no good'] } }, 'tools.deny.0'],
    [{ max_steps: 0 }, 'max_steps'],
    [{ shell: 'maybe' }, 'shell'],
    [{ on_busy: 'panic' }, 'on_busy'],
    [{ heartbeat: { every: 'often' } }, 'heartbeat.every'],
    [{ heartbeat: { every: '8d' } }, 'heartbeat.every'],
    [{ heartbeat: { active_hours: { start: '25:00', end: '17:00' } } }, 'heartbeat.active_hours.start'],
    [{ heartbeat: { active_hours: { start: '24:00', end: '00:00' } } }, 'heartbeat.active_hours.start'],
    [{ heartbeat: { active_hours: { start: '09:00' } } }, 'heartbeat.active_hours.end'],
    [
      { heartbeat: { active_hours: { start: '09:00', end: '10:00', time_zone: 'Mars/Olympus' } } },
      'heartbeat.active_hours.time_zone',
    ],
    [{ env: { PATH: '/tmp' } }, 'env.PATH'],
    [{ env: { https_proxy: 'x' } }, 'env.https_proxy'],
    [{ env: { LD_PRELOAD: 'x' } }, 'env.LD_PRELOAD'],
    [{ env: { 'A-B': 'x' } }, 'env.A-B'],
    [{ env: { A: 1 } }, 'env.A'],
    [{ model: 'nonsense' }, 'model'],
    [{ network: { mode: 'closed' } }, 'network.mode'],
    [{ network: { mode: 'allowlist' } }, 'network.hosts'],
    [{ network: { mode: 'allowlist', hosts: [] } }, 'network.hosts'],
    [{ network: { mode: 'allowlist', hosts: ['ok.example', '127.0.0.1'] } }, 'network.hosts.1'],
    [{ network: { mode: 'allowlist', hosts: ['2130706433'] } }, 'network.hosts.0'],
    [{ network: { mode: 'allowlist', hosts: ['::ffff:10.0.0.1'] } }, 'network.hosts.0'],
    [{ network: { mode: 'allowlist', hosts: ['metadata.google.internal'] } }, 'network.hosts.0'],
    [{ network: { mode: 'open', hosts: ['ok.example'] } }, 'network.hosts'],
    [{ network: { mode: 'none', hosts: ['ok.example'] } }, 'network.hosts'],
    [{ network: { mode: 'open', ports: [0] } }, 'network.ports.0'],
    [JSON.parse('{"env":{"__proto__":"x"}}'), 'env.__proto__'],
    [{ limits: { memory_mib: 1 } }, 'limits.memory_mib'],
    [{ limits: { memory_mib: 2048 } }, 'limits.memory_mib'],
    [{ image: 'other:1' }, 'image'],
    [{ isolation: 'shared' }, 'isolation'],
    ['text', 'body'],
    [[], 'body'],
  ])('%j is refused, naming %s, and nothing changes', async (body, path) => {
    const user = await refusing;
    const answer = await patch(user, body);
    expect(answer.status, answer.text).toBe(400);
    expect(answer.json.fields[0].path, answer.text).toBe(path);
    expect((await config(user)).version).toBe(1);
  });
  let refusing: Promise<Who>;
  beforeAll(() => {
    refusing = owner('a');
  });

  test('a body of another media type is refused', async () => {
    expect((await patch(await refusing, '{}', { 'content-type': 'text/plain' })).status).toBe(415);
  });

  test('the gateway is told before the next turn, without another container', async () => {
    const user = await owner('a');
    await app.ready(user);
    await patch(user, { shell: 'off', tools: { deny: ['fetch_url'] }, max_steps: 2, env: { A: '1' }, sampling: { top_p: 0.5 } });
    const said = await app.post('/api/v1/agents/a/chat', user.key, { messages: [{ role: 'user', content: 'x' }] });
    expect(said.status).toBe(200);
    expect(told(user.id)).toMatchObject({
      maxSteps: 2,
      tools: { deny: ['fetch_url', 'shell'] },
      env: { A: '1' },
      sampling: { top_p: 0.5 },
    });
    expect(await deployments(user)).toMatchObject([{ kind: 'shared', generation: 1 }]);
  });

  test('the model has one truth, whichever route changes it', async () => {
    const user = await owner('a');
    await patch(user, { model: 'openai/fast' });
    expect((await app.get('/api/v1/agents/a', user.key)).json.model).toBe('openai/fast');
    await app.call('PUT', '/api/v1/agents/a', { key: user.key, body: { model: 'openai/slow' } });
    expect(await config(user)).toMatchObject({ version: 3, document: { model: 'openai/slow' } });
    const back = await patch(user, { model: null });
    expect(back.json).toMatchObject({ version: 4, config: { model: 'demo/echo' }, document: {} });
    expect((await app.get('/api/v1/agents/a', user.key)).json.model).toBe('demo/echo');
    const { data } = (await app.get('/api/v1/agents/a/config/versions', user.key)).json;
    expect(data.map((one: { document: { model?: string } }) => one.document.model)).toEqual([
      undefined,
      'openai/slow',
      'openai/fast',
      undefined,
    ]);
  });

  test('every version is kept, can be read, and be made the present one again', async () => {
    const user = await owner('a');
    for (const n of [1, 2, 3]) await patch(user, { max_steps: n, env: { N: String(n) } });
    const path = '/api/v1/agents/a/config/versions';
    const first = (await app.get(`${path}?limit=2`, user.key)).json;
    expect(first.data.map((one: { version: number }) => one.version)).toEqual([4, 3]);
    const rest = (await app.get(`${path}?limit=2&cursor=${first.pagination.next_cursor}`, user.key)).json;
    expect(rest.data.map((one: { version: number }) => one.version)).toEqual([2, 1]);
    expect(rest.pagination.total).toBe(4);
    expect((await app.get(`${path}/2`, user.key)).json).toMatchObject({
      version: 2,
      document: { max_steps: 1, env: { N: '1' } },
    });
    expect((await app.get(`${path}/9`, user.key)).status).toBe(404);
    const restored = await app.post(`${path}/2/restore`, user.key, undefined);
    expect(restored.json).toMatchObject({ version: 5, document: { max_steps: 1, env: { N: '1' } } });
    expect((await app.post(`${path}/99/restore`, user.key, undefined)).status).toBe(404);
  });

  test('a network policy makes the container the agent its own, and counts without another container', async () => {
    const user = await owner('a');
    await app.ready(user);
    const set = await patch(user, { network: { mode: 'allowlist', hosts: ['API.Example.com', '*.example.org'], ports: [443] } });
    const network = { mode: 'allowlist', hosts: ['api.example.com', '*.example.org'], ports: [443] };
    expect(set.json).toMatchObject({ applies: 'live', config: { network, isolation: 'dedicated' } });
    expect(await deployments(user)).toEqual([{ kind: 'dedicated', network, limits: null, image: null, generation: 1 }]);
    expect((await app.get('/api/v1/agents/a', user.key)).json).toMatchObject({
      network,
      isolation: 'dedicated',
      isolation_reason: expect.stringContaining('network'),
    });
    // Another mode leaves behind what only the mode before it had; the short form leaves ports as well.
    expect((await patch(user, { network: { mode: 'open' } })).json.config.network).toEqual({ mode: 'open', ports: [443] });
    expect((await patch(user, { network: 'open' })).json.config.network).toEqual({ mode: 'open' });
    expect((await patch(user, { network: null })).json.config.network).toEqual({ mode: 'none' });
    expect((await deployments(user))[0]).toMatchObject({ network: { mode: 'none' }, generation: 1 });
    // A newcomer does not come into it.
    const second = await app.agent(user, 'b');
    expect(second.deploymentId).not.toBe((await app.get('/api/v1/agents/a', user.key)).json.deployment_id);
  });

  test('hosts that are named while everything is open are refused: they would hold nothing back', async () => {
    const user = await owner('a');
    await patch(user, { network: 'open' });
    const narrowed = await patch(user, { network: { hosts: ['ok.example'] } });
    expect([narrowed.status, narrowed.json.fields]).toMatchObject([400, [{ path: 'network.hosts' }]]);
    const listed = await patch(user, { network: { mode: 'allowlist', hosts: ['ok.example'] } });
    expect(listed.json.config.network).toEqual({ mode: 'allowlist', hosts: ['ok.example'] });
    expect((await patch(user, { network: { mode: 'open' } })).json.config.network).toEqual({ mode: 'open' });
  });

  test('limits change as the container runs; an image replaces it, and says so', async () => {
    const user = await owner('a');
    await app.ready(user);
    const smaller = await patch(user, { limits: { memory_mib: 512 } });
    expect(smaller.json).toMatchObject({ applies: 'live', replaces_container: [], config: { limits: { memory_mib: 512 } } });
    await app.ready(user);
    const [same] = [...app.engine.instances.values()].filter((one) => one.spec.userId === user.id);
    expect(same?.spec).toMatchObject({ generation: 1, limits: { memoryMib: 512 } });
    const set = await patch(user, { limits: { memory_mib: 256, pids: 64 }, image: 'special:1', max_steps: 4 });
    expect(set.json).toMatchObject({ applies: 'replaces_container', replaces_container: ['image'] });
    await app.ready(user);
    const live = [...app.engine.instances.values()].filter((one) => one.spec.userId === user.id);
    expect(live.map(({ spec }) => [spec.generation, spec.image, spec.limits])).toEqual([
      [2, 'special:1', { memoryMib: 256, cpuMillis: 1000, pids: 64 }],
    ]);
    expect(told(user.id)).toMatchObject({ maxSteps: 4 });
    // A smaller tier is the cap, whatever was asked for.
    await app.call('PUT', `/api/v1/users/${user.id}/tier`, { key: app.adminKey, body: { tier: 'free' } });
    await app.ready(user);
    expect((await config(user)).config.limits).toEqual({ memory_mib: 256, cpu_millis: 500, pids: 64 });
    const [now] = [...app.engine.instances.values()].filter((one) => one.spec.userId === user.id);
    expect(now?.spec.limits).toEqual({ memoryMib: 256, cpuMillis: 500, pids: 64 });
  });

  test('an agent with siblings moves to a container of its own, and keeps it', async () => {
    const user = await owner('a', 'b');
    await app.ready(user);
    const before = (await app.get('/api/v1/agents/a', user.key)).json;
    const set = await patch(user, { network: 'open', limits: { memory_mib: 512 } });
    expect(set.json, set.text).toMatchObject({ applies: 'replaces_container', config: { isolation: 'dedicated' } });
    expect(set.json.replaces_container).toEqual(['network', 'isolation', 'limits']);
    const after = (await app.get('/api/v1/agents/a', user.key)).json;
    expect(after.deployment_id).not.toBe(before.deployment_id);
    expect(await deployments(user)).toMatchObject([
      { kind: 'shared', network: { mode: 'none' }, limits: null },
      { kind: 'dedicated', network: { mode: 'open' }, limits: { memory_mib: 512 } },
    ]);
    expect((await patch(user, { isolation: null })).status).toBe(409);
  });

  test('the network of an agent: the policy in force, and counts by host', async () => {
    const user = await owner('a', 'b');
    const { deployment_id: deploymentId } = (await app.get('/api/v1/agents/a', user.key)).json;
    for (const [host, day] of [
      ['a.example', 0],
      ['b.example', 0],
      ['b.example', 3],
      ['old.example', 60],
    ] as const) {
      await sql`insert into egress_traffic (user_id, deployment_id, day, host, port, connections, refused, bytes_up, bytes_down)
        values (${user.id}, ${deploymentId}, (now() at time zone 'utc')::date - ${day}::integer, ${host}, 443, 2, 1, 10, 3000000000)`.execute(
        app.database.db,
      );
    }
    const seen = (await app.get('/api/v1/agents/a/network?limit=1', user.key)).json;
    expect(seen).toMatchObject({ agent: 'a', network: { mode: 'none' }, shared_with: ['b'] });
    expect(seen.totals).toEqual({ connections: 6, refused: 3, bytes_up: 30, bytes_down: 9_000_000_000 });
    expect(seen.data).toMatchObject([{ host: 'a.example', port: 443, connections: 2 }]);
    const rest = (await app.get(`/api/v1/agents/a/network?cursor=${seen.pagination.next_cursor}`, user.key)).json;
    expect(rest.data).toMatchObject([{ host: 'b.example', connections: 4, bytes_down: 6_000_000_000 }]);
    expect((await app.get('/api/v1/agents/a/network?since=2020-01-01', user.key)).json.data).toHaveLength(3);
    expect((await app.get('/api/v1/agents/a/network?since=soon', user.key)).status).toBe(400);
    expect((await app.get('/api/v1/agents/a/network?cursor=AAAA', user.key)).status).toBe(400);
  });

  test('all of it goes with the agent and its user', async () => {
    const user = await owner('a');
    await patch(user, { max_steps: 2 });
    await app.call('DELETE', `/api/v1/users/${user.id}`, { key: app.adminKey });
    await until(async () => (await app.get(`/api/v1/users/${user.id}`, app.adminKey)).status === 404, 'the user to be gone');
    await until(async () => {
      const { rows } = await sql`select 1 from users where id = ${user.id}`.execute(app.database.db);
      return rows.length === 0;
    }, 'its rows to be gone');
  });
});

// The examples of RFC 7396, appendix A, but those whose target is no object; empty objects are left out.
test.each<[Record<string, unknown>, Record<string, unknown>, Record<string, unknown>]>([
  [{ a: 'b' }, { a: 'c' }, { a: 'c' }],
  [{ a: 'b' }, { b: 'c' }, { a: 'b', b: 'c' }],
  [{ a: 'b' }, { a: null }, {}],
  [{ a: 'b', b: 'c' }, { a: null }, { b: 'c' }],
  [{ a: ['b'] }, { a: 'c' }, { a: 'c' }],
  [{ a: 'c' }, { a: ['b'] }, { a: ['b'] }],
  [{ a: { b: 'c' } }, { a: { b: 'd', c: null } }, { a: { b: 'd' } }],
  [{ a: [{ b: 'c' }] }, { a: [1] }, { a: [1] }],
  [{ e: null }, { a: 1 }, { e: null, a: 1 }],
  [{}, { a: { bb: { ccc: null } } }, {}],
])('%j patched by %j is %j', (target, patch, result) => {
  expect(mergePatch(target, patch)).toEqual(result);
});

test('a field called __proto__ is a field', () => {
  const merged = mergePatch({}, JSON.parse('{"__proto__":{"polluted":1}}') as Record<string, unknown>);
  expect(({} as { polluted?: number }).polluted).toBeUndefined();
  expect(Object.keys(merged)).toEqual(['__proto__']);
});

test.each([
  ['30m', 1_800_000],
  ['0m', 0],
  ['1h30m', 5_400_000],
  ['7d', 604_800_000],
  ['8d', undefined],
  ['', undefined],
  ['m', undefined],
  ['-5m', undefined],
  ['5', undefined],
])('a heartbeat every %j is %s ms', (text, ms) => {
  expect(everyMs(text)).toBe(ms);
});

test.each([
  [undefined, '2030-01-01T03:00:00Z', true],
  [{ start: '09:00', end: '17:00' }, '2030-01-01T09:00:00Z', true],
  [{ start: '09:00', end: '17:00' }, '2030-01-01T17:00:00Z', false],
  [{ start: '22:00', end: '06:00' }, '2030-01-01T23:30:00Z', true],
  [{ start: '22:00', end: '06:00' }, '2030-01-01T12:00:00Z', false],
  [{ start: '00:00', end: '24:00' }, '2030-01-01T23:59:59Z', true],
  [{ start: '09:00', end: '17:00', time_zone: 'America/New_York' }, '2030-01-01T13:59:00Z', false],
  [{ start: '09:00', end: '17:00', time_zone: 'America/New_York' }, '2030-01-01T14:00:00Z', true],
])('within %j at %s: %s', (hours, at, is) => {
  expect(isActiveAt(hours, new Date(at))).toBe(is);
});
