import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';

describe.each(databaseKinds)('an agent that is stopped (%s)', (database) => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp({ database });
  });
  afterAll(() => app.stop());

  const chat = (key: string, agent: string, stream = false) =>
    app.post(`/api/v1/agents/${agent}/chat${stream ? '/stream' : ''}`, key, { messages: [{ role: 'user', content: 'hello' }] });
  const status = async (key: string) => (await app.get('/api/v1/deploy/status', key)).json;

  test('has no container, says so, and runs no turn until it is started', async () => {
    const user = await app.user();
    await app.agent(user, 'solo');
    await app.ready(user);
    expect((await app.post('/api/v1/agents/solo/stop', user.key, undefined)).json).toMatchObject({ status: 'stopped' });
    await app.ready(user);
    expect(await status(user.key)).toMatchObject({
      state: 'asleep',
      percent: 100,
      settled: true,
      deployments: [{ state: 'asleep', instance: null, reason: null }],
    });
    for (const stream of [false, true]) {
      const refused = await chat(user.key, 'solo', stream);
      expect(refused).toMatchObject({ status: 409 });
      expect(refused.json).toMatchObject({ code: 'conflict', error: expect.stringContaining('stopped') });
    }
    expect((await app.post('/api/v1/agents/solo/start', user.key, undefined)).status).toBe(202);
    expect(await chat(user.key, 'solo')).toMatchObject({ status: 200 });
    await app.ready(user);
    expect((await app.get('/api/v1/agents/solo', user.key)).json).toMatchObject({ status: 'ready' });
  });

  test('leaves its siblings running, and the container sleeps with the last of them', async () => {
    const user = await app.user();
    for (const name of ['a', 'b']) await app.agent(user, name);
    await app.ready(user);
    await app.post('/api/v1/agents/a/stop', user.key, undefined);
    await app.ready(user);
    expect(await status(user.key)).toMatchObject({ state: 'ready' });
    expect(await chat(user.key, 'a')).toMatchObject({ status: 409 });
    expect(await chat(user.key, 'b')).toMatchObject({ status: 200 });
    await app.post('/api/v1/agents/b/stop', user.key, undefined);
    await app.ready(user);
    expect(await status(user.key)).toMatchObject({ state: 'asleep' });
  });

  test('is stopped twice and started twice without another effect', async () => {
    const user = await app.user();
    await app.agent(user, 'twice');
    for (const verb of ['stop', 'stop', 'start', 'start'])
      expect((await app.post(`/api/v1/agents/twice/${verb}`, user.key, undefined)).status).toBe(202);
    expect(await chat(user.key, 'twice')).toMatchObject({ status: 200 });
  });

  test('wakes a sleeping container when a sibling is made in it', async () => {
    const user = await app.user();
    await app.agent(user, 'first');
    await app.post('/api/v1/agents/first/stop', user.key, undefined);
    await app.ready(user);
    const second = await app.agent(user, 'second');
    expect(await chat(user.key, 'second')).toMatchObject({ status: 200 });
    expect(await chat(user.key, 'first')).toMatchObject({ status: 409 });
    expect((await app.get('/api/v1/agents/first', user.key)).json.deployment_id).toBe(second.deploymentId);
  });

  test('can be deleted while it sleeps, and leaves nothing', async () => {
    const user = await app.user();
    await app.agent(user, 'gone');
    await app.post('/api/v1/agents/gone/stop', user.key, undefined);
    await app.ready(user);
    expect((await app.call('DELETE', '/api/v1/agents/gone', { key: user.key })).status).toBe(202);
    await app.ready(user);
    expect(await status(user.key)).toMatchObject({ state: 'none', deployments: [] });
  });
});
