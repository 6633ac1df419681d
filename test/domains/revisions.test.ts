import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { RevisionDocument } from '../../src/domains/deployments/deployments.table.js';
import { differences } from '../../src/domains/deployments/difference.js';
import { type Answer, startApp, type TestApp } from '../support/app.js';
import { type DatabaseKind, databaseKinds } from '../support/database.js';
import { until } from '../support/until.js';

interface Who {
  id: string;
  key: string;
}

const DOCUMENT: RevisionDocument = {
  kind: 'dedicated',
  image: 'usual',
  image_from: 'installation',
  network: { mode: 'none' },
  limits: { memory_mib: 256, cpu_millis: 500, pids: 128 },
  limits_set: null,
  tier: 'free',
  agents: [{ id: 'agt_1', name: 'a', model: 'demo/echo', config_version: 0 }],
};

describe('what differs between two revisions', () => {
  test('is named by path, whatever the order of the fields', () => {
    expect(differences(DOCUMENT, structuredClone(DOCUMENT))).toEqual([]);
    const after: RevisionDocument = {
      ...DOCUMENT,
      network: { hosts: ['example.com'], mode: 'allowlist' },
      limits: { pids: 128, cpu_millis: 500, memory_mib: 128 },
      limits_set: { memory_mib: 128 },
      agents: [{ id: 'agt_2', name: 'b', model: 'demo/echo', config_version: 0 }],
    };
    expect(differences(DOCUMENT, after)).toEqual([
      { path: 'agents.a.config_version', before: 0, after: null },
      { path: 'agents.a.id', before: 'agt_1', after: null },
      { path: 'agents.a.model', before: 'demo/echo', after: null },
      { path: 'agents.b.config_version', before: null, after: 0 },
      { path: 'agents.b.id', before: null, after: 'agt_2' },
      { path: 'agents.b.model', before: null, after: 'demo/echo' },
      { path: 'limits.memory_mib', before: 256, after: 128 },
      { path: 'limits_set.memory_mib', before: null, after: 128 },
      { path: 'network.hosts', before: null, after: ['example.com'] },
      { path: 'network.mode', before: 'none', after: 'allowlist' },
    ]);
  });
});
const ENV = { AGENT_IMAGE: 'usual', AGENT_IMAGES: 'special,other', OPENAI_BASE_URL: 'http://127.0.0.1:9' };

/** An app of its own for the tests of a suite, and short words for what they ask of it. */
function suite(database: DatabaseKind) {
  let app: TestApp;
  const owners: Who[] = [];
  beforeAll(async () => {
    app = await startApp({ database, env: ENV });
  });
  // Whatever a test changed, and by which route: what a deployment is to run is what its newest revision says.
  afterEach(async () => {
    for (const one of owners.splice(0)) {
      for (const { status: _, created_at: __, id, revision, ...present } of (await deployments(one)).data) {
        const newest = (await app.get(`/api/v1/deployments/${id}/revisions/${revision}`, one.key)).json;
        expect(newest).toMatchObject(present);
      }
    }
  });
  afterAll(() => app.stop());

  const deployments = async (who: Who) => (await app.get('/api/v1/deployments', who.key)).json;
  return {
    app: () => app,
    deployments,
    async owner(tier = 'pro'): Promise<Who> {
      const made = await app.user(undefined, tier);
      owners.push(made);
      return made;
    },
    revisions: async (who: Who, id: string) =>
      (await app.get(`/api/v1/users/${who.id}/deployments/${id}/revisions`, who.key)).json.data,
    patch: (who: Who, body: object): Promise<Answer> =>
      app.call('PATCH', '/api/v1/agents/a/config', { key: who.key, body, headers: { 'x-request-id': 'patched-1' } }),
    create: (who: Who, body: object): Promise<Answer> => app.post('/api/v1/deployments', who.key, body),
    put: (who: Who, id: string, body: object, headers: Record<string, string> = {}): Promise<Answer> =>
      app.call('PUT', `/api/v1/deployments/${id}`, { key: who.key, body, headers }),
    rollBack: (who: Who, id: string, revision: number): Promise<Answer> =>
      app.post(`/api/v1/deployments/${id}/revisions/${revision}/rollback`, who.key, undefined),
    config: async (who: Who, agent = 'a') => (await app.get(`/api/v1/agents/${agent}/config`, who.key)).json.document,
  };
}

const paths = (revision: { changes: { path: string }[] }) => revision.changes.map(({ path }) => path);
const fieldsOf = ({ json }: Answer) => json.fields.map(({ path }: { path: string }) => path);

describe.each(databaseKinds)('the revisions of a deployment (fake, %s)', (database) => {
  const { app: theApp, ...ask } = suite(database);
  const { owner, revisions, patch, deployments, put, create } = ask;
  let app: TestApp;
  beforeAll(() => {
    app = theApp();
  });

  test('are one for each change of what it runs, with who, when and in which request', async () => {
    const user = await owner();
    const { deploymentId, id: agentId } = await app.agent(user, 'a', { isolation: 'dedicated' });
    expect(await revisions(user, deploymentId)).toMatchObject([
      {
        deployment_id: deploymentId,
        revision: 1,
        kind: 'dedicated',
        image: 'usual',
        image_from: 'installation',
        network: { mode: 'none' },
        limits: { memory_mib: 1024, cpu_millis: 1000, pids: 256 },
        limits_set: null,
        tier: 'pro',
        agents: [{ id: agentId, name: 'a', model: 'demo/echo', config_version: 0 }],
        actor: expect.stringMatching(/^user:key_/),
        reason: null,
      },
    ]);
    const changed = await patch(user, { image: 'special', limits: { memory_mib: 512 }, network: 'open', max_steps: 3 });
    expect(changed.status, changed.text).toBe(200);
    const asAdmin = async (path: string, body: object) =>
      expect((await app.call('PUT', `/api/v1/users/${user.id}/${path}`, { key: app.adminKey, body })).status).toBe(200);
    await asAdmin('agents/a', { model: 'openai/gpt-fake' });
    await asAdmin('tier', { tier: 'free' });
    const all = await revisions(user, deploymentId);
    expect(all.map(paths)).toEqual([
      ['limits.cpu_millis', 'limits.memory_mib', 'limits.pids', 'tier'],
      ['agents.a.model'],
      ['agents.a.config_version', 'image', 'image_from', 'limits.memory_mib', 'limits_set.memory_mib', 'network.mode'],
      expect.any(Array),
    ]);
    expect(all[2]).toMatchObject({ revision: 2, request_id: 'patched-1', image: 'special', image_from: 'config' });
    expect(all.slice(0, 2).map((one: { actor: string }) => one.actor)).toEqual([
      'admin:key_environment',
      'admin:key_environment',
    ]);
    const times = all.map((one: { created_at: string }) => one.created_at);
    expect(times).toEqual(times.toSorted().toReversed());
  });

  test('say which agents came and went, and of which container', async () => {
    const user = await owner();
    const { deploymentId } = await app.agent(user, 'a');
    await app.agent(user, 'b');
    await app.agent(user, 'c');
    await app.call('DELETE', '/api/v1/agents/b', { key: user.key });
    await patch(user, { isolation: 'dedicated' });
    const all = await revisions(user, deploymentId);
    const names = all.map((one: RevisionDocument) => one.agents.map(({ name }) => name).join(''));
    expect(names).toEqual(['c', 'ac', 'abc', 'ab', 'a']);
    const { data } = await deployments(user);
    expect(data.map((one: { kind: string; revision: number }) => [one.kind, one.revision])).toEqual([
      ['shared', 5],
      ['dedicated', 1],
    ]);
  });

  test('hold no secret, and nothing changes them', async () => {
    const user = await owner();
    const { deploymentId } = await app.agent(user, 'a', { isolation: 'dedicated' });
    await app.call('PUT', '/api/v1/agents/a/secrets', { key: user.key, body: { TOKEN: 'never-in-a-revision' } });
    await patch(user, { env: { GREETING: 'hello-from-env' } });
    const { rows } = await sql<{ text: string }>`
      select r::text as text from deployment_revisions r where deployment_id = ${deploymentId}`.execute(app.database.db);
    expect(rows).toHaveLength(2);
    expect(rows.map(({ text }) => text).join()).not.toMatch(/never-in-a-revision|hello-from-env/);
    const forged = sql`update deployment_revisions set actor = 'nobody' where deployment_id = ${deploymentId}`;
    await expect(forged.execute(app.database.db)).rejects.toThrow('a revision is never changed');
  });

  test('are listed in pages, read one by one, and compared', async () => {
    const user = await owner();
    const { deploymentId } = await app.agent(user, 'a');
    for (const max_steps of [3, 4, 5]) await patch(user, { max_steps });
    const path = `/api/v1/deployments/${deploymentId}/revisions`;
    const first = (await app.get(`${path}?limit=2`, user.key)).json;
    const second = (await app.get(`${path}?limit=2&cursor=${first.pagination.next_cursor}`, user.key)).json;
    expect(first.pagination).toMatchObject({ total: 4, has_more: true });
    expect([...first.data, ...second.data].map((one) => [one.revision, paths(one).join()])).toEqual([
      [4, 'agents.a.config_version'],
      [3, 'agents.a.config_version'],
      [2, 'agents.a.config_version'],
      [1, expect.stringContaining('agents.a.id')],
    ]);
    expect((await app.get(`${path}/3`, user.key)).json).toEqual(first.data[1]);
    const diff = await app.get(`${path}/diff?from=4&to=2`, user.key);
    expect(diff.json).toEqual({
      deployment_id: deploymentId,
      from: 4,
      to: 2,
      changes: [{ path: 'agents.a.config_version', before: 4, after: 2 }],
    });
  });

  test('follow one another also where changes come at once', async () => {
    const user = await owner();
    const { id } = (await create(user, { name: 'a' })).json;
    const answers = await Promise.all([3, 4, 5, 6].map((max_steps) => put(user, id, { agents: [{ name: 'a', max_steps }] })));
    expect(answers.map(({ json }) => json.revision).toSorted()).toEqual([2, 3, 4, 5]);
    const all = await revisions(user, id);
    expect(all.map((one: { revision: number }) => one.revision)).toEqual([5, 4, 3, 2, 1]);
  });

  test('go with their user', async () => {
    const user = await app.user();
    await app.agent(user, 'a');
    expect((await app.call('DELETE', `/api/v1/users/${user.id}`, { key: app.adminKey })).status).toBe(202);
    const left = () => app.database.db.selectFrom('deployment_revisions').select('id').where('user_id', '=', user.id).execute();
    await until(async () => (await app.get(`/api/v1/users/${user.id}`, app.adminKey)).status === 404, 'the user to be erased');
    expect(await left()).toEqual([]);
  });
});

describe('the revisions of a deployment, as its user changes it (fake, postgres)', () => {
  const { app: theApp, ...ask } = suite('postgres');
  const { owner, revisions, patch, deployments, put, create, rollBack, config } = ask;
  let app: TestApp;
  let known: { user: Who; deploymentId: string };
  beforeAll(async () => {
    app = theApp();
    const user = await app.user();
    known = { user, ...(await app.agent(user, 'a')) };
  });

  test('are none for what changes nothing of that', async () => {
    const user = await owner();
    const { deploymentId } = await app.agent(user, 'a');
    await app.call('PUT', '/api/v1/agents/a', { key: user.key, body: { description: 'words', model: 'demo/echo' } });
    await app.call('PUT', '/api/v1/agents/a/templates', { key: user.key, body: { 'SOUL.md': 'a soul' } });
    await app.call('PUT', '/api/v1/agents/a/secrets', { key: user.key, body: { TOKEN: 'a-secret-value' } });
    await app.post('/api/v1/agents/a/stop', user.key, undefined);
    await patch(user, {});
    expect(await revisions(user, deploymentId)).toHaveLength(1);
  });

  test.each<[string, number, string]>([
    ['9', 404, 'revision not found'],
    ['0', 400, 'path.revision'],
    ['many', 400, 'path.revision'],
    ['diff', 400, 'query.from'],
    ['diff?from=1&to=9', 404, 'revision not found'],
    ['diff?from=1&to=1.5', 400, 'query.to'],
  ])('revisions/%s is refused with %i', async (rest, status, said) => {
    const answer = await app.get(`/api/v1/deployments/${known.deploymentId}/revisions/${rest}`, known.user.key);
    expect(answer.status, answer.text).toBe(status);
    expect(answer.text).toContain(said);
  });

  test("of another's answer as those of one that never was", async () => {
    const [mine, theirs] = [await owner(), await owner()];
    const { deploymentId } = await app.agent(theirs, 'a');
    const said = async (path: string) => {
      const { status, json } = await app.get(`/api/v1/deployments/${path}`, mine.key);
      return [status, { ...json, request_id: undefined }];
    };
    for (const rest of ['', '/revisions', '/revisions/1', '/revisions/diff?from=1&to=1'])
      expect(await said(deploymentId + rest)).toEqual(await said(`dep_${'0'.repeat(26)}${rest}`));
    expect((await said(`${deploymentId}/revisions`))[0]).toBe(404);
  });

  test('show with the deployment the containers that it has and had', async () => {
    const user = await owner();
    const { deploymentId } = await app.agent(user, 'a', { isolation: 'dedicated' });
    await app.ready(user);
    await patch(user, { image: 'other' });
    const get = async () => (await app.get(`/api/v1/deployments/${deploymentId}`, user.key)).json;
    await until(async () => (await get()).instances[1]?.ended_at != null, 'the first container to be replaced');
    await app.ready(user);
    expect(await get()).toMatchObject({
      revision: 2,
      image: 'other',
      status: { state: 'ready', agents: ['a'] },
      instances: [
        { generation: 2, role: 'current', image: 'other', ended_at: null },
        { generation: 1, image: 'usual', end_reason: expect.stringContaining('replaced') },
      ],
    });
  });

  test('begin with a deployment that is created whole, or not at all', async () => {
    const user = await owner();
    const made = await create(user, { name: 'a', image: 'special', limits: { memory_mib: 300 }, network: 'open' });
    expect(made.status, made.text).toBe(202);
    const what = { image: 'special', limits: { memory_mib: 300 }, limits_set: { memory_mib: 300 }, network: { mode: 'open' } };
    expect(made.json).toMatchObject({ kind: 'dedicated', revision: 1, ...what, agents: [{ name: 'a' }] });
    expect((await app.get('/api/v1/users/me/agents/a', made.json.agent.api_key)).status).toBe(200);
    expect(await revisions(user, made.json.id)).toHaveLength(1);
    for (const [wrong, path] of [
      [{ image: 'evil' }, 'image'],
      [{ limits: { memory_mib: 1_000_000 } }, 'limits.memory_mib'],
      [{ isolation: 'shared' }, 'isolation'],
    ] as const) {
      const refused = await create(user, { name: 'b', ...wrong });
      expect([refused.status, ...fieldsOf(refused)]).toEqual([400, path]);
    }
    expect((await create(user, { name: 'a' })).status).toBe(409);
    expect((await deployments(user)).data).toHaveLength(1);
    expect((await app.get('/api/v1/agents', user.key)).json.pagination.total).toBe(1);
  });

  test('are one for a change of several things at once, guarded by If-Match', async () => {
    const user = await owner();
    const { id } = (await create(user, { name: 'a' })).json;
    const change = { image: 'other', network: 'open', agents: [{ name: 'a', max_steps: 3 }] };
    const changed = await put(user, id, change, { 'if-match': '"1"' });
    expect(changed.json, changed.text).toMatchObject({ revision: 2, image: 'other', network: { mode: 'open' } });
    expect(changed.headers.get('etag')).toBe('"2"');
    expect(await config(user)).toMatchObject({ image: 'other', max_steps: 3 });
    expect((await put(user, id, { image: null }, { 'if-match': '"1"' })).status).toBe(412);
    expect((await put(user, id, {})).json.revision).toBe(2);
    for (const [wrong, path] of [
      [{ image: 'evil', agents: [{ name: 'a', max_steps: 4 }] }, 'image'],
      [{ image: 'special', agents: [{ name: 'nobody', max_steps: 4 }] }, 'agents.0.name'],
      [{ image: 'special', agents: [{ name: 'a', max_steps: 0 }] }, 'agents.0.max_steps'],
      [{ image: 'special', agents: [{ name: 'a', network: 'none' }] }, 'agents.0.network'],
    ] as const) {
      const refused = await put(user, id, wrong);
      expect([refused.status, ...fieldsOf(refused)]).toEqual([400, path]);
    }
    expect((await revisions(user, id))[0]).toMatchObject({ revision: 2, image: 'other' });
  });

  test('of a shared container are of its agents alone', async () => {
    const user = await owner();
    const { deploymentId } = await app.agent(user, 'a');
    const refused = await put(user, deploymentId, { image: 'other', limits: { pids: 64 } });
    expect([refused.status, ...fieldsOf(refused)]).toEqual([409, 'image', 'limits']);
    expect((await put(user, deploymentId, { agents: [{ name: 'a', max_steps: 3 }] })).status).toBe(200);
    expect(await config(user)).toMatchObject({ max_steps: 3 });
  });

  test('end with a deployment that is deleted, and its agents with it', async () => {
    const user = await owner();
    const { id } = (await create(user, { name: 'own' })).json;
    const { deploymentId } = await app.agent(user, 'a');
    await app.agent(user, 'b');
    const gone = await app.call('DELETE', `/api/v1/deployments/${deploymentId}`, { key: user.key });
    expect([gone.status, gone.json]).toEqual([202, { id: deploymentId, agents: ['a', 'b'], status: 'deleting' }]);
    expect((await deployments(user)).data.map((one: { id: string }) => one.id)).toEqual([id]);
    expect((await app.get('/api/v1/agents', user.key)).json.data.map((one: { name: string }) => one.name)).toEqual(['own']);
    for (const path of ['', '/revisions']) {
      expect((await app.get(`/api/v1/deployments/${deploymentId}${path}`, user.key)).status).toBe(404);
    }
  });

  test('are rolled back to as a new one, and the container and the config are what they were', async () => {
    const user = await owner();
    const { id } = (await create(user, { name: 'a', image: 'special', limits: { pids: 64 }, network: 'open' })).json;
    await put(user, id, {
      image: 'other',
      limits: null,
      network: null,
      agents: [{ name: 'a', max_steps: 3, model: 'openai/gpt-x' }],
    });
    const back = await rollBack(user, id, 1);
    expect(back.status, back.text).toBe(202);
    expect(back.json).toMatchObject({
      revision: 3,
      rolled_back_to: 1,
      reason: 'rolled back to revision 1',
      stays: [],
      image: 'special',
      limits_set: { pids: 64 },
      network: { mode: 'open' },
      agents: [{ model: 'demo/echo' }],
    });
    expect(await config(user)).toEqual({
      image: 'special',
      isolation: 'dedicated',
      limits: { pids: 64 },
      network: { mode: 'open' },
    });
    const running = async () => {
      const { instances, status } = (await app.get(`/api/v1/deployments/${id}`, user.key)).json;
      return status.state === 'ready' && instances.filter((one: { ended_at: unknown }) => one.ended_at === null);
    };
    await until(async () => {
      const live = await running();
      return live !== false && live.length === 1 && live[0].image === 'special' && live[0].limits.endsWith('64 pids');
    }, 'the container to be what it was');
    const again = await rollBack(user, id, 1);
    expect([again.status, again.json.error]).toEqual([409, 'the deployment runs what was wished at revision 1 already']);
    expect((await rollBack(user, id, 2)).json).toMatchObject({
      revision: 4,
      image: 'other',
      agents: [{ model: 'openai/gpt-x' }],
    });
    expect(await config(user)).toEqual({ image: 'other', isolation: 'dedicated', max_steps: 3, model: 'openai/gpt-x' });
    expect((await rollBack(user, id, 9)).status).toBe(404);
  });

  test('are rolled back to for the agents that are still there; none comes or goes for it', async () => {
    const user = await owner();
    const { deploymentId } = await app.agent(user, 'a');
    await app.agent(user, 'b');
    await app.call('DELETE', '/api/v1/agents/b', { key: user.key });
    await app.agent(user, 'c');
    await patch(user, { max_steps: 3 });
    const back = await rollBack(user, deploymentId, 2);
    expect(back.status, back.text).toBe(202);
    expect(back.json.agents.map((one: { name: string }) => one.name)).toEqual(['a', 'c']);
    expect(back.json.stays.map(({ path }: { path: string }) => path)).toEqual([
      'agents.b.id',
      'agents.b.model',
      'agents.c.id',
      'agents.c.model',
    ]);
    expect(await config(user)).toEqual({});
  });

  test('are not rolled back to where that cannot be had, and nothing changes', async () => {
    const user = await owner();
    const { id } = (await create(user, { name: 'a', limits: { memory_mib: 512 } })).json;
    await put(user, id, { limits: null, agents: [{ name: 'a', max_steps: 3 }] });
    await put(user, id, { agents: [{ name: 'a', max_steps: 4 }] });
    await app.database.db.deleteFrom('agent_configs').where('version', '=', 4).where('user_id', '=', user.id).execute();
    expect((await app.call('PUT', `/api/v1/users/${user.id}/tier`, { key: app.adminKey, body: { tier: 'free' } })).status).toBe(
      200,
    );
    const before = await revisions(user, id);
    const refused = await rollBack(user, id, 2);
    expect([refused.status, ...fieldsOf(refused)]).toEqual([
      409,
      'limits.memory_mib',
      'limits.cpu_millis',
      'limits.pids',
      'agents.a.config_version',
    ]);
    expect(refused.json.error).toMatch(
      /^revision 2 cannot be run again: limits.memory_mib was 1024, and the tier free has 256 at most; .*no longer kept$/,
    );
    expect(await revisions(user, id)).toEqual(before);
    expect(await config(user)).toMatchObject({ max_steps: 4 });
  });

  test('note at the start that the operator offers other images', async () => {
    const user = await owner();
    const { deploymentId } = await app.agent(user, 'a', { isolation: 'dedicated' });
    await patch(user, { image: 'special' });
    const { deploymentId: usual } = await app.agent(user, 'b');
    const beside = await startApp({ beside: app, env: { AGENT_IMAGE: 'newer', AGENT_IMAGES: 'other' } });
    try {
      for (const id of [deploymentId, usual]) {
        const [newest] = await revisions(user, id);
        expect(newest).toMatchObject({ actor: 'installation', image: 'newer', image_from: 'installation' });
      }
      const path = `/api/v1/deployments/${deploymentId}/revisions`;
      const refused = await beside.post(`${path}/2/rollback`, user.key, undefined);
      expect([refused.status, ...fieldsOf(refused)]).toEqual([409, 'image']);
      expect(refused.json.error).toContain('which the operator offers no more');
      const idle = await beside.post(`${path}/1/rollback`, user.key, undefined);
      expect([idle.status, idle.json.error]).toEqual([
        409,
        "the deployment runs what was wished at revision 1 already; what differs is not its user's to take back: image",
      ]);
    } finally {
      await beside.stop();
      const again = await startApp({ beside: app, env: ENV });
      await again.stop();
    }
  });
});
