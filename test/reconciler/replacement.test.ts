import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';
import { liveInstances, untilReplaced, wishImage } from '../support/replacing.js';
import { until } from '../support/until.js';

describe.each(databaseKinds)('a replacement (fake, %s)', (database) => {
  let app: TestApp;
  let user: { id: string; key: string };
  let deploymentId: string;
  beforeAll(async () => {
    app = await startApp({ database });
  });
  beforeEach(async () => {
    user = await app.user(undefined, 'business');
    ({ deploymentId } = await app.agent(user, 'a'));
    await app.ready(user);
  });
  afterEach(() => {
    app.engine.delay('create', 0);
    app.engine.delay('stop', 0);
    app.gateways.refuses = undefined;
  });
  afterAll(() => app.stop());

  const chat = async () =>
    (await app.post('/api/v1/agents/a/chat', user.key, { messages: [{ role: 'user', content: 'hello' }] })).status;
  const status = async () =>
    (await app.get(`/api/v1/users/${user.id}/deploy/status`, app.adminKey)).json.deployments.find(
      (one: { id: string }) => one.id === deploymentId,
    );
  const current = async () => (await liveInstances(app, deploymentId)).find((one) => one.role === 'current')!;
  const incoming = async () => (await liveInstances(app, deploymentId)).find((one) => one.role === 'incoming');
  const untilIncoming = () => until(async () => (await incoming())?.started_at != null, 'the incoming instance to run');

  test('that cannot be made leaves the running one as it is, says why, and is tried again', async () => {
    const before = await current();
    app.engine.fail('create', { times: 2, error: new Error('no such image') });
    await wishImage(app, deploymentId, 'other');
    await until(async () => (await status()).reason?.startsWith('the new instance was given up') === true, 'the reason');
    expect((await current()).id).toBe(before.id);
    expect(await chat()).toBe(200);
    await untilReplaced(app, deploymentId, before.generation);
    await app.ready(user);
    expect((await status()).reason).toBeNull();
    expect(await chat()).toBe(200);
  });

  test('whose gateway refuses its config is undone and says why, and the old one serves all along', async () => {
    const before = await current();
    app.gateways.refuses = (spec) => (spec.image === 'other' ? 'this gateway knows no agents' : undefined);
    await wishImage(app, deploymentId, 'other');
    await until(
      async () => (await status()).reason?.endsWith('refused its configuration: this gateway knows no agents') === true,
      'the reason',
    );
    expect(await incoming()).toBeUndefined();
    expect((await current()).id).toBe(before.id);
    expect(await chat()).toBe(200);
    app.gateways.refuses = undefined;
    await untilReplaced(app, deploymentId, before.generation);
    await app.ready(user);
    expect((await status()).reason).toBeNull();
    expect(await chat()).toBe(200);
  });

  test('that dies soon after it took over is undone, and the old one serves again', async () => {
    const before = await current();
    await wishImage(app, deploymentId, 'other');
    await until(async () => (await incoming())?.handed_at != null, 'the agent to be handed over');
    const failed = (await incoming())!;
    app.engine.die(failed.name);
    await until(async () => (await incoming())?.id !== failed.id, 'the new one to be given up');
    expect((await current()).id).toBe(before.id);
    expect(await chat()).toBe(200);
    const { end_reason } = await app.database.db
      .selectFrom('instances')
      .select('end_reason')
      .where('id', '=', failed.id)
      .executeTakeFirstOrThrow();
    expect(end_reason).toMatch(/^the new instance was given up: /);
    await untilReplaced(app, deploymentId, before.generation);
    expect(await chat()).toBe(200);
  });

  test('goes on by the new one when the old one dies in the midst of it', async () => {
    const before = await current();
    app.engine.delay('create', 300);
    await wishImage(app, deploymentId, 'other');
    await until(async () => (await incoming()) !== undefined, 'the incoming instance');
    app.engine.die(before.name);
    await untilReplaced(app, deploymentId, before.generation);
    expect(await chat()).toBe(200);
  });

  test('that is no longer wished is undone at once, and no failure', async () => {
    const before = await current();
    app.engine.delay('create', 300);
    await wishImage(app, deploymentId, 'other');
    await until(async () => (await incoming()) !== undefined, 'the incoming instance');
    await wishImage(app, deploymentId, null);
    await until(async () => (await incoming()) === undefined, 'it to be gone');
    await app.ready(user);
    expect((await current()).id).toBe(before.id);
    expect((await status()).reason).toBeNull();
    expect(await chat()).toBe(200);
  });

  test('leaves nothing behind when the agent, and with it the deployment, is deleted meanwhile', async () => {
    await wishImage(app, deploymentId, 'other');
    await untilIncoming();
    expect((await app.call('DELETE', '/api/v1/agents/a', { key: user.key })).status).toBe(202);
    const rows = () => app.database.db.selectFrom('instances').select('id').where('deployment_id', '=', deploymentId).execute();
    await until(async () => (await rows()).length === 0, 'the rows to go');
    const { instances } = await app.runtime.list();
    expect(instances.filter((one) => one.deploymentId === deploymentId)).toEqual([]);
  });

  test('goes with its user', async () => {
    await wishImage(app, deploymentId, 'other');
    await untilIncoming();
    expect((await app.call('DELETE', `/api/v1/users/${user.id}`, { key: app.adminKey })).status).toBe(202);
    await until(async () => (await app.get(`/api/v1/users/${user.id}`, app.adminKey)).status === 404, 'the user to be erased');
    await until(async () => (await app.runtime.list()).instances.every((one) => one.deploymentId !== deploymentId), 'both to go');
  });

  test('ends with a stop of the agent, and a start makes what is wished', async () => {
    const before = await current();
    await wishImage(app, deploymentId, 'other');
    await untilIncoming();
    expect((await app.post('/api/v1/agents/a/stop', user.key, undefined)).status).toBe(202);
    await until(async () => (await liveInstances(app, deploymentId)).length === 0, 'both to end');
    expect((await app.post('/api/v1/agents/a/start', user.key, undefined)).status).toBe(202);
    await untilReplaced(app, deploymentId, before.generation);
    await app.ready(user);
    expect(await chat()).toBe(200);
    const { instances } = await app.runtime.list();
    expect(instances.filter((one) => one.deploymentId === deploymentId)).toHaveLength(1);
  });

  const restart = () => app.post('/api/v1/agents/a/restart', user.key, undefined);

  test('is what a restart is: of the same, one for each, and nothing is cut for it', async () => {
    const before = await current();
    const asked = await restart();
    expect([asked.status, asked.json.status]).toEqual([202, 'deploying']);
    expect(await chat()).toBe(200);
    await untilReplaced(app, deploymentId, before.generation);
    await app.ready(user);
    expect((await app.get(`/api/v1/deployments/${deploymentId}`, user.key)).json).toMatchObject({
      revision: 1,
      instances: [
        { image: 'berth-agent:latest', ended_at: null },
        { image: 'berth-agent:latest', end_reason: expect.stringContaining('replaced') },
      ],
    });
    await restart();
    await untilReplaced(app, deploymentId, before.generation + 1);
    expect(await chat()).toBe(200);
  });

  test('is not needed where a restart finds the agent stopped: it is started', async () => {
    await app.post('/api/v1/agents/a/stop', user.key, undefined);
    await until(async () => (await liveInstances(app, deploymentId)).length === 0, 'it to end');
    expect((await restart()).json.status).not.toBe('stopped');
    expect(await chat()).toBe(200);
  });

  test('takes along agents that come, change and go while it runs', async () => {
    const before = await current();
    await app.agent(user, 'b');
    await app.ready(user);
    app.engine.delay('create', 200);
    await wishImage(app, deploymentId, 'other');
    await until(async () => (await incoming()) !== undefined, 'the incoming instance');
    await app.agent(user, 'c');
    await app.call('DELETE', '/api/v1/agents/b', { key: user.key });
    await untilReplaced(app, deploymentId, before.generation);
    await app.ready(user);
    const told = app.gateways.configs.get((await current()).id)?.agents.map((agent) => agent.id);
    expect(told).toEqual(['a', 'c']);
    expect(await chat()).toBe(200);
  });
});
