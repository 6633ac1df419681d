import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { authorizationCases, type Case, checkCase, type KeyKind } from '../http/authorization.js';
import { startApp, type TestApp } from '../support/app.js';
import { skillMd } from '../support/archives.js';
import { FakeClawHub } from '../support/fake-clawhub.js';
import { until } from '../support/until.js';

interface Fixture {
  params: Record<string, string>;
  keys: Record<KeyKind, string | undefined>;
}

let app: TestApp;
let registry: FakeClawHub;
let shared: Fixture;
let cases: Case[];

beforeAll(async () => {
  // Hundreds of refusals from one address are what this test is about.
  registry = await FakeClawHub.start();
  app = await startApp({
    env: { CLAWHUB_URL: registry.url },
    app: { rates: { perAddress: 100_000, failuresPerAddress: 100_000 } },
  });
  cases = authorizationCases((await app.get('/openapi.json')).json);
  shared = await fixture();
  await until(async () => (await app.get(`/api/v1/users/me`, shared.keys.expired)).status === 401, 'a key to expire');
});
afterAll(async () => {
  await app.stop();
  await registry.stop();
});

/** A user with an agent, a sibling agent, a stranger with an agent, and a key of every kind; one of them expires in a second. */
async function fixture(): Promise<Fixture> {
  const [owner, stranger] = [await app.user(), await app.user()];
  const agent = await app.agent(owner, 'mine');
  const sibling = await app.agent(owner, 'sibling');
  const foreign = await app.agent(stranger, 'theirs');
  await Promise.all([app.ready(owner), app.ready(stranger)]);
  const path = `/api/v1/users/${owner.id}/keys`;
  const revoked = (await app.post(path, owner.key, {})).json;
  expect((await app.call('DELETE', `${path}/${revoked.id}`, { key: owner.key })).status).toBe(204);
  const expired = (await app.post(path, owner.key, { expires_in_s: 1 })).json;
  const spare = (await app.post(path, owner.key, {})).json;
  // Not the agent's own: rotate-key is one of the routes.
  const second = (await app.post(path, owner.key, { agent: agent.name })).json;
  const plugin = (await app.post(`/api/v1/users/${owner.id}/plugins`, owner.key, { name: 'spare' })).json;
  const skill = skillMd('spare');
  const uploaded = await app.call('PUT', `/api/v1/users/${owner.id}/skills/spare/file`, {
    key: owner.key,
    body: skill,
    headers: { 'content-type': 'text/markdown' },
  });
  expect(uploaded.status).toBe(201);
  return {
    params: {
      user: owner.id,
      agent: agent.name,
      deployment: agent.deploymentId,
      revision: '1',
      key: spare.id,
      plugin: plugin.id,
      id: 'spare',
      slug: 'nowhere',
      rollout: 'none',
      model: 'berth/mine',
      file: 'SOUL.md',
      version: '1',
    },
    keys: {
      none: undefined,
      garbage: 'berth_usr_garbage',
      revoked: revoked.api_key,
      expired: expired.api_key,
      'other user': stranger.key,
      'other agent': sibling.key,
      'foreign agent': foreign.key,
      agent: second.api_key,
      user: owner.key,
      admin: app.adminKey,
    },
  };
}

async function check(tried: Case): Promise<string | undefined> {
  // A deletion that is allowed takes its fixture with it; such a one is never asked for with the expired key.
  const used = tried.method === 'DELETE' && tried.expected === 'allowed' ? await fixture() : shared;
  return checkCase(tried, used.params, async (method, path, kind) => {
    const hasBody = method === 'POST' || method === 'PUT' || method === 'PATCH';
    const answer = await app.call(method, path, { key: used.keys[kind], ...(hasBody ? { body: {} } : {}) });
    return {
      status: answer.status,
      body: answer.headers.get('content-type')?.startsWith('application/json') ? answer.json : undefined,
    };
  });
}

/** Whatever route changes something has left what it was asked, and whatever route refuses has left that. */
async function checkAudit(): Promise<void> {
  const { paths } = (await app.get('/openapi.json')).json as {
    paths: Record<string, Record<string, { operationId: string; 'x-access': string }>>;
  };
  const operations = Object.values(paths).flatMap((item) => Object.entries(item));
  const recorded = async (kind: string) => {
    const rows = await app.database.db
      .selectFrom('audit_entries')
      .select('operation')
      .distinct()
      .where('kind', '=', kind as 'begun')
      .execute();
    return new Set(rows.map(({ operation }) => operation));
  };
  const [begun, refused] = [await recorded('begun'), await recorded('refused')];
  const changing = operations.filter(([method]) => method !== 'get').map(([, { operationId }]) => operationId);
  expect(changing.length).toBeGreaterThan(50);
  expect(changing.filter((id) => !begun.has(id))).toEqual([]);
  // Strangers' refusals are told apart up to a limit; it is the admin's routes that others are refused by key.
  expect(refused.size).toBeGreaterThan(20);
}

describe('who may call what', () => {
  test('every route answers every kind of key as it declares', async () => {
    expect(cases.length).toBeGreaterThan(200);
    const wrong: string[] = [];
    for (const tried of cases) {
      const said = await check(tried);
      if (said !== undefined) wrong.push(said);
    }
    expect(wrong).toEqual([]);
    await checkAudit();
  }, 900_000);

  test('every path of the table of contents is in the document', async () => {
    const paths = new Set(cases.map((one) => one.path));
    for (const path of [
      '/api/v1/users',
      '/api/v1/users/{user}/agents/{agent}/chat/stream',
      '/v1/chat/completions',
      '/health',
      '/metrics',
    ]) {
      expect([...paths]).toContain(path);
    }
  });
});
