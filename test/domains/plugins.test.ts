import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';
import { until } from '../support/until.js';

const tool = (name: string, command = 'cat') => ({
  name,
  description: `Does ${name}.`,
  parameters: { type: 'object', properties: { b: { type: 'string' }, a: { type: 'string' } }, required: ['b'] },
  command,
});

interface Owner {
  id: string;
  key: string;
}

describe.each(databaseKinds)('plugins on %s', (database) => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp({ database });
  });
  afterAll(() => app.stop());

  const create = (user: Owner, body: object) => app.post(`/api/v1/users/${user.id}/plugins`, user.key, body);
  const assign = (user: Owner, agent: string, plugins: unknown) =>
    app.call('PUT', `/api/v1/users/${user.id}/agents/${agent}/plugins`, { key: user.key, body: { plugin_ids: plugins } });
  const assigned = async (user: Owner, agent: string) =>
    (await app.get(`/api/v1/users/${user.id}/agents/${agent}/plugins`, user.key)).json;

  async function owner(): Promise<Owner & { agentId: string }> {
    const user = await app.user();
    const agent = await app.agent(user, 'a');
    await app.ready(user);
    return { ...user, agentId: agent.id };
  }

  /** The commands that the agent's gateway was told last. */
  function told(agentId: string): { name: string; command: string; parameters: object }[] {
    const agents = [...app.gateways.configs.values()].flatMap((config) => config.agents);
    const agent = agents.find((one) => one.incarnation === agentId) as unknown as { commands?: never[] } | undefined;
    return agent?.commands ?? [];
  }

  const untilTold = (agentId: string, commands: string[]) =>
    until(
      () =>
        told(agentId)
          .map(({ name, command }) => `${name}:${command}`)
          .join() === commands.join(),
      () => `${commands.join()}; told ${JSON.stringify(told(agentId))}`,
    );

  test('a plugin is made, found by id and name, changed with a guard, and its agents are told of each step', async () => {
    const user = await owner();
    const made = await create(user, { name: 'weather', description: 'Sky', tools: [tool('forecast', 'echo 1')] });
    expect(made.status, made.text).toBe(201);
    expect(made.json).toMatchObject({ name: 'weather', version: '1.0.0', enabled: true, scope: 'user', skills: [], revision: 1 });
    // As the author wrote it, not as jsonb sorts it.
    expect(made.text).toContain('"b":{"type":"string"},"a":');

    expect((await assign(user, 'a', ['weather'])).status).toBe(200);
    await untilTold(user.agentId, ['forecast:echo 1']);
    expect(told(user.agentId)[0]?.parameters).toEqual(tool('x').parameters);

    const path = `/api/v1/users/${user.id}/plugins/weather`;
    const got = await app.get(path, user.key);
    expect(got.headers.get('etag')).toBe('"1"');
    const put = (body: object, headers?: Record<string, string>) =>
      app.call('PUT', path, { key: user.key, body, ...(headers ? { headers } : {}) });
    expect((await put({ tools: [tool('forecast', 'echo 2')] }, { 'if-match': '"1"' })).json.revision).toBe(2);
    await untilTold(user.agentId, ['forecast:echo 2']);
    expect((await put({ description: null }, { 'if-match': '"1"' })).status).toBe(412);

    expect((await put({ enabled: false })).json.enabled).toBe(false);
    await untilTold(user.agentId, []);
    expect(await assigned(user, 'a')).toMatchObject({
      items: [{ name: 'weather', enabled: false }],
      tools: [],
      left_out: [{ name: 'forecast', reason: 'the plugin is disabled' }],
    });
    await put({ enabled: true });
    await untilTold(user.agentId, ['forecast:echo 2']);

    expect((await app.call('DELETE', `/api/v1/users/${user.id}/plugins/${made.json.id}`, { key: user.key })).status).toBe(204);
    await untilTold(user.agentId, []);
    expect((await assigned(user, 'a')).items).toEqual([]);
    expect((await app.get(path, user.key)).status).toBe(404);
  });

  test('the order is the priority, a repeated plugin counts once, and who lost a name to whom is said', async () => {
    const user = await owner();
    const one = (await create(user, { name: 'one', tools: [tool('both', 'echo one'), tool('first')] })).json;
    const two = (await create(user, { name: 'two', tools: [tool('both', 'echo two')] })).json;
    const answer = await assign(user, 'a', ['two', one.id, two.id, 'one']);
    expect(answer.json.plugin_ids).toEqual([two.id, one.id]);
    expect(answer.json.items.map((item: { priority: number }) => item.priority)).toEqual([0, 1]);
    expect(answer.json.items[1]).toMatchObject({
      plugin_id: one.id,
      commands: ['both', 'first'],
      commands_count: 2,
      skills_count: 0,
    });
    expect(answer.json.left_out).toEqual([
      { name: 'both', plugin_id: one.id, plugin: 'one', reason: 'two comes first and has a tool of this name' },
    ]);
    await untilTold(user.agentId, ['both:echo two', 'first:cat']);
    await assign(user, 'a', [one.id, two.id]);
    await untilTold(user.agentId, ['both:echo one', 'first:cat']);
    // The flat form reaches the same.
    expect((await app.get('/api/agents/a/plugins', user.key)).json).toEqual(await assigned(user, 'a'));
    expect((await app.call('PUT', '/api/agents/a/plugins', { key: user.key, body: { plugin_ids: [] } })).json.items).toEqual([]);
    await untilTold(user.agentId, []);
  });

  test('unknown, disabled and foreign plugins are refused where they stand, and nothing changes', async () => {
    const [user, stranger] = [await owner(), await owner()];
    await create(user, { name: 'good', tools: [tool('t')] });
    await create(user, { name: 'off', enabled: false });
    const theirs = (await create(stranger, { name: 'theirs' })).json;
    await assign(user, 'a', ['good']);
    const refused = await assign(user, 'a', ['good', 'never-was', 'off', theirs.id]);
    expect(refused.status).toBe(400);
    expect(refused.json.fields).toEqual([
      { path: 'plugin_ids.1', message: 'is no plugin of the user or of the installation' },
      { path: 'plugin_ids.2', message: 'is disabled' },
      { path: 'plugin_ids.3', message: 'is no plugin of the user or of the installation' },
    ]);
    expect((await assigned(user, 'a')).items).toHaveLength(1);
    expect((await assign(user, 'never-was', ['good'])).status).toBe(404);
    expect((await app.get(`/api/v1/users/${user.id}/plugins/${theirs.id}`, user.key)).status).toBe(404);
  });

  test("the installation's plugins are for every user, changed by an admin alone, and for all agents at once", async () => {
    const [ada, bob] = [await owner(), await owner()];
    const made = await app.post('/api/v1/admin/plugins', app.adminKey, {
      name: `all${database}`,
      tools: [tool('common', 'echo 1')],
    });
    expect(made.status, made.text).toBe(201);
    expect(made.json.scope).toBe('installation');
    for (const user of [ada, bob]) {
      expect((await app.get(`/api/v1/users/${user.id}/plugins`, user.key)).json.data).toMatchObject([{ id: made.json.id }]);
      expect((await assign(user, 'a', [made.json.id])).status).toBe(200);
      const path = `/api/v1/users/${user.id}/plugins/${made.json.id}`;
      expect((await app.call('PUT', path, { key: user.key, body: { enabled: false } })).status).toBe(403);
      expect((await app.call('DELETE', path, { key: user.key })).status).toBe(403);
    }
    const put = (body: object) => app.call('PUT', `/api/v1/admin/plugins/${made.json.id}`, { key: app.adminKey, body });
    await put({ tools: [tool('common', 'echo 2')] });
    await Promise.all([ada, bob].map((user) => untilTold(user.agentId, ['common:echo 2'])));
    const skills = await put({ skills: ['x'] });
    expect(skills.json.fields[0].path).toBe('skills.0');
    expect((await app.call('DELETE', `/api/v1/admin/plugins/${made.json.id}`, { key: app.adminKey })).status).toBe(204);
    await Promise.all([ada, bob].map((user) => untilTold(user.agentId, [])));
    const { rows } = await sql<{ type: string }>`
      select type from events where user_id = ${bob.id} and type like '%plugin%' order by seq`.execute(app.database.db);
    expect(rows.map(({ type }) => type)).toEqual(['agent.plugins_changed', 'plugin.updated', 'plugin.deleted']);
  });

  test.each<[string, object, string]>([
    ['a name that begins like an id', { name: 'plg_x' }, 'name'],
    ['the name of an own tool', { tools: [tool('shell')] }, 'tools.0.name'],
    ['a tool twice', { tools: [tool('x'), tool('x')] }, 'tools.1.name'],
    ['a name with a blank', { tools: [tool('a b')] }, 'tools.0.name'],
    ['parameters that are no object', { tools: [{ ...tool('x'), parameters: { type: 'string' } }] }, 'tools.0.parameters.type'],
    ['parameters that are too deep', { tools: [{ ...tool('x'), parameters: deep(16) }] }, 'tools.0.parameters'],
    [
      'parameters that are too long',
      { tools: [{ ...tool('x'), parameters: { type: 'object', x: 'y'.repeat(20_000) } }] },
      'tools.0.parameters',
    ],
    ['an empty command', { tools: [tool('x', '')] }, 'tools.0.command'],
    ['NUL in a command', { tools: [tool('x', 'a\0b')] }, 'tools.0.command'],
    ['too many tools', { tools: Array.from({ length: 33 }, (_, i) => tool(`t${i}`)) }, 'tools'],
    ['an unknown skill', { skills: ['never-was'] }, 'skills.0'],
    ['an unknown field', { color: 'red' }, 'color'],
  ])('%s is refused by its field', async (_, body, path) => {
    const user = await app.user();
    const answer = await create(user, { name: 'x', ...body });
    expect(answer.status, answer.text).toBe(400);
    expect(answer.json.fields[0].path).toBe(path);
  });

  test('of two plugins of one name the second is a conflict, also by renaming', async () => {
    const user = await app.user();
    await create(user, { name: 'taken' });
    const second = await create(user, { name: 'taken' });
    expect(second.status).toBe(409);
    expect(second.json.fields[0].path).toBe('name');
    await create(user, { name: 'free' });
    const renamed = await app.call('PUT', `/api/v1/users/${user.id}/plugins/free`, { key: user.key, body: { name: 'taken' } });
    expect(renamed.status).toBe(409);
  });

  test('an agent gets at most a hundred tools of plugins, and is told which it does not get', async () => {
    const user = await owner();
    const names = ['p0', 'p1', 'p2', 'p3'];
    for (const name of names) await create(user, { name, tools: Array.from({ length: 32 }, (_, i) => tool(`${name}_${i}`)) });
    const answer = await assign(user, 'a', names);
    expect(answer.json.tools).toHaveLength(100);
    expect(answer.json.left_out).toHaveLength(28);
    expect(answer.json.left_out[0]).toMatchObject({ name: 'p3_4', reason: 'an agent has at most 100 tools of plugins' });
  });

  test('a tool whose name became that of one that every agent has is left out, or its gateway would refuse all', async () => {
    const user = await owner();
    await create(user, { name: 'old', tools: [tool('nap'), tool('other')] });
    await sql`update plugins set tools = replace(tools::text, '"nap"', '"keep_awake"')::json where user_id = ${user.id}`.execute(
      app.database.db,
    );
    const answer = await assign(user, 'a', ['old']);
    expect(answer.json.left_out).toMatchObject([{ name: 'keep_awake', reason: 'every agent has a tool of this name' }]);
    await untilTold(user.agentId, ['other:cat']);
  });

  test('nothing of them is left when their user is deleted', async () => {
    const user = await owner();
    await create(user, { name: 'x', tools: [tool('t')] });
    await assign(user, 'a', ['x']);
    await app.call('DELETE', `/api/v1/users/${user.id}`, { key: user.key });
    await until(async () => (await app.get(`/api/v1/users/${user.id}`, app.adminKey)).status === 404, 'the user to go');
    const { rows } = await sql<{ n: number }>`
      select (select count(*) from plugins where user_id = ${user.id})::int + (select count(*) from agent_plugins where user_id = ${user.id})::int as n`.execute(
      app.database.db,
    );
    expect(rows[0]?.n).toBe(0);
  });
});

/** A schema that is nested that deep. */
function deep(levels: number): object {
  let schema: object = { type: 'object' };
  for (let i = 0; i < levels; i++) schema = { type: 'object', properties: { x: schema } };
  return schema;
}
