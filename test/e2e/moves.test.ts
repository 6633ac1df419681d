import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { until } from '../support/until.js';

const PLACES = [
  { database: 'pglite' as const, runtime: 'process' as const },
  { database: 'postgres' as const, runtime: 'docker' as const },
];

describe.each(PLACES)('files of agents ($runtime, $database)', ({ database, runtime }) => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp({ database, runtime, env: { AGENT_IMAGE: process.env.AGENT_IMAGE ?? 'berth-agent:latest' } });
  });
  afterAll(() => app.stop());

  type User = Awaited<ReturnType<TestApp['user']>>;
  const say = (user: User, agent: string, content: string, conversation_id?: string) =>
    app.post(`/api/v1/agents/${agent}/chat`, user.key, {
      messages: [{ role: 'user', content }],
      ...(conversation_id ? { conversation_id } : {}),
    });
  const put = (user: User, agent: string, path: string, body: string) =>
    app.call('PUT', `/api/v1/agents/${agent}/files/${path}`, { key: user.key, body, headers: { 'content-type': 'text/plain' } });
  const read = (user: User, agent: string, path: string) => app.get(`/api/v1/agents/${agent}/files/${path}`, user.key);
  const statusOf = async (user: User) => (await app.get(`/api/v1/users/${user.id}/deploy/status`, app.adminKey)).json;

  test('follow an agent into a container of its own, and so does what was said', async () => {
    const user = await app.user();
    for (const name of ['a', 'b']) await app.agent(user, name);
    expect((await put(user, 'a', 'notes/kept.txt', 'of a')).status).toBe(201);
    expect((await put(user, 'b', 'kept.txt', 'of b')).status).toBe(201);
    const { conversation_id: conversation } = (await say(user, 'a', 'first')).json;
    const before = (await app.get('/api/v1/agents/a', user.key)).json;

    const answer = await app.call('PATCH', '/api/v1/agents/a/config', { key: user.key, body: { isolation: 'dedicated' } });
    expect(answer.status).toBe(200);
    const told = await say(user, 'a', '/history', conversation);
    expect(told).toMatchObject({ status: 200 });
    expect(told.json.message).toBe('first');
    expect((await read(user, 'a', 'notes/kept.txt')).text).toBe('of a');
    const after = (await app.get('/api/v1/agents/a', user.key)).json;
    expect(after).toMatchObject({ isolation: 'dedicated', status: 'ready' });
    expect(after.deployment_id).not.toBe(before.deployment_id);
    expect((await read(user, 'b', 'kept.txt')).text).toBe('of b');
    expect((await statusOf(user)).deployments.map((one: { agents: string[] }) => one.agents)).toEqual([['b'], ['a']]);
  });

  test('stay where they are when the only agent of a container is to have one of its own', async () => {
    const user = await app.user();
    const alone = await app.agent(user, 'a');
    await put(user, 'a', 'kept.txt', 'still here');
    await app.call('PATCH', '/api/v1/agents/a/config', { key: user.key, body: { isolation: 'dedicated' } });
    expect((await read(user, 'a', 'kept.txt')).text).toBe('still here');
    expect((await app.get('/api/v1/agents/a', user.key)).json).toMatchObject({
      deployment_id: alone.deploymentId,
      isolation: 'dedicated',
    });
  });

  test('are within reach while the agent is stopped, and no turn runs meanwhile', async () => {
    const user = await app.user();
    const { deploymentId } = await app.agent(user, 'a');
    await put(user, 'a', 'kept.txt', 'before the night');
    await app.post('/api/v1/agents/a/stop', user.key, undefined);
    await app.ready(user);
    expect(await statusOf(user)).toMatchObject({ state: 'asleep', deployments: [{ instance: null }] });
    expect((await read(user, 'a', 'kept.txt')).text).toBe('before the night');
    expect((await put(user, 'a', 'new.txt', 'at night')).status).toBe(201);
    expect(await say(user, 'a', 'hello')).toMatchObject({ status: 409 });
    // As when the minute has passed.
    await sql`update deployments set files_until = now(), due_at = now() where id = ${deploymentId}`.execute(app.database.db);
    await until(async () => (await statusOf(user)).state === 'asleep', 'it to sleep again');
    await app.post('/api/v1/agents/a/start', user.key, undefined);
    expect(await say(user, 'a', 'good morning')).toMatchObject({ status: 200 });
    expect((await read(user, 'a', 'new.txt')).text).toBe('at night');
  });
});
