import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FakeEngine } from '../../src/runtime/fake/engine.js';
import { startApp, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';
import { until } from '../support/until.js';

const SIZE = 2;

async function pooled(app: TestApp): Promise<string[]> {
  const { rows } = await sql<{ id: string }>`
    select i.id from instances i join deployments d on d.id = i.deployment_id
    where d.kind = 'pool' and d.state = 'ready' and i.ended_at is null order by i.id`.execute(app.database.db);
  return rows.map((row) => row.id);
}

const isFull = (app: TestApp) => until(async () => (await pooled(app)).length === SIZE, 'the pool to be full');

describe.each(databaseKinds)('the pool (%s)', (database) => {
  let app: TestApp;
  beforeAll(async () => {
    const engine = new FakeEngine();
    engine.bound = 'hard';
    app = await startApp({ database, engine, env: { POOL_SIZE: String(SIZE) } });
  });
  afterAll(() => app.stop());

  const statusOf = async (user: { id: string }) =>
    (await app.get(`/api/v1/users/${user.id}/deploy/status`, app.adminKey)).json.deployments[0];

  test('gives a first agent an instance that is up, with the limits of its user, and is filled again', async () => {
    await isFull(app);
    const before = await pooled(app);
    const user = await app.user(undefined, 'business');
    await app.agent(user, 'a');
    const answer = await app.post('/api/v1/agents/a/chat', user.key, { messages: [{ role: 'user', content: 'hi' }] });
    expect(answer).toMatchObject({ status: 200 });
    const { instance, kind } = await statusOf(user);
    expect(before).toContain(instance.id);
    expect(kind).toBe('shared');
    // What is larger may come a moment after the first turn, but not after the status says that it is ready.
    await app.ready(user);
    const [claimed] = [...app.engine.instances.values()].filter((one) => one.spec.instanceId === instance.id);
    expect(claimed?.spec.limits).toEqual({ memoryMib: 4096, cpuMillis: 2000, pids: 512 });
    expect(app.engine.volumes.get(claimed?.spec.volume ?? '')?.sizeMib).toBe(102_400);
    await isFull(app);
    expect(await pooled(app)).not.toContain(instance.id);
  });

  test('gives nothing twice, however many come at once; who finds it empty gets a container of the usual kind', async () => {
    await isFull(app);
    const users = await Promise.all(Array.from({ length: SIZE * 3 }, () => app.user()));
    await Promise.all(users.map((user) => app.agent(user, 'a', { isolation: 'dedicated' })));
    const answers = await Promise.all(
      users.map((user) => app.post('/api/v1/agents/a/chat', user.key, { messages: [{ role: 'user', content: 'hi' }] })),
    );
    expect(answers.map(({ status }) => status)).toEqual(users.map(() => 200));
    const instances = await Promise.all(users.map(async (user) => (await statusOf(user)).instance.id));
    expect(new Set(instances).size).toBe(users.length);
  });

  test('an instance of it belongs to nobody: it is in no list, and its deployment has no agent', async () => {
    await isFull(app);
    const users = (await app.get('/api/v1/users?limit=200', app.adminKey)).json.data;
    expect(users.every((user: { id: string }) => user.id.startsWith('usr_'))).toBe(true);
    for (const [id, config] of app.gateways.configs) if ((await pooled(app)).includes(id)) expect(config.agents).toEqual([]);
  });

  test('an instance of it has answered a turn of nobody before it is given to anybody; where that fails it is given all the same', async () => {
    await isFull(app);
    const asked: unknown[] = [];
    app.gateways.script = ({ body }, response) => {
      asked.push((body as { model?: unknown }).model);
      response.end('what is this?');
    };
    try {
      await app.agent(await app.user(), 'a');
      await isFull(app);
    } finally {
      app.gateways.script = undefined;
    }
    expect(asked).toEqual(['openclaw/rehearsal']);
    const user = await app.user();
    await app.agent(user, 'a');
    const answer = await app.post('/api/v1/agents/a/chat', user.key, { messages: [{ role: 'user', content: 'hi' }] });
    expect(answer).toMatchObject({ status: 200 });
    const usage = (await app.get(`/api/v1/users/${user.id}/usage`, user.key)).text;
    expect(usage).not.toContain('rehearsal');
  });

  test('one whose gateway never ends its turn of nobody is given all the same', async () => {
    await isFull(app);
    let asked = 0;
    app.gateways.script = (_, response) => {
      asked += 1;
      response.write(': and\n\n');
    };
    try {
      await app.agent(await app.user(), 'a');
      await isFull(app);
    } finally {
      app.gateways.script = undefined;
    }
    expect(asked).toBeGreaterThan(0);
  });

  test('what was claimed goes with its user, and nothing is left of it', async () => {
    const user = await app.user();
    await app.agent(user, 'a');
    await app.ready(user);
    const { id: deploymentId } = await statusOf(user);
    expect((await app.call('DELETE', `/api/v1/users/${user.id}`, { key: app.adminKey })).status).toBe(202);
    await until(async () => (await app.get(`/api/v1/users/${user.id}`, app.adminKey)).status === 404, 'the user to be gone');
    expect([...app.engine.volumes.values()].some((volume) => volume.deploymentId === deploymentId)).toBe(false);
    expect([...app.engine.instances.values()].some((one) => one.spec.deploymentId === deploymentId)).toBe(false);
  });

  test('an instance of it that dies is made anew, and one that cannot start is given to nobody', async () => {
    await isFull(app);
    const [first] = await pooled(app);
    const dead = [...app.engine.instances.values()].find((one) => one.spec.instanceId === first);
    app.engine.vanish(dead?.spec.name ?? '');
    const user = await app.user();
    await app.agent(user, 'a');
    await app.ready(user);
    await isFull(app);
    expect(await pooled(app)).not.toContain(first);
  });
});

describe('a claimed container', () => {
  test('of the real engine is as sealed, and as limited, as one that was made for its user', async () => {
    const env: Record<string, string> = { POOL_SIZE: '1', AGENT_IMAGE: process.env.AGENT_IMAGE ?? 'berth-agent:latest' };
    const app = await startApp({ database: 'postgres', runtime: 'docker', env });
    try {
      await until(async () => (await pooled(app)).length === 1, 'the pool to be full');
      const [ready] = await pooled(app);
      const [claimed, made] = [await app.user(), await app.user()];
      await app.agent(claimed, 'a');
      await app.agent(made, 'a');
      const inspected = [];
      for (const user of [claimed, made]) {
        await app.call('PUT', `/api/v1/users/${user.id}/secrets`, { key: user.key, body: { MINE: `of ${user.id}` } });
        const call =
          '/tool shell {"command":"id -u; echo $MINE; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max; ls /sys/class/net; ls -A /data/workspaces /data/homes /data/.berth/agents"}';
        const answer = await app.post('/api/v1/agents/a/chat', user.key, { messages: [{ role: 'user', content: call }] });
        expect(answer.json.message).toContain(`of ${user.id}`);
        expect(answer.json.message).not.toContain('rehearsal');
        await app.ready(user);
        const { instance } = (await app.get('/api/v1/deploy/status', user.key)).json.deployments[0];
        const { instances } = await app.runtime.list();
        const seen = instances.find((one) => one.instanceId === instance.id);
        inspected.push({ id: instance.id, host: await hostConfigOf(seen?.runtimeId ?? '') });
      }
      expect(inspected[0]?.id).toBe(ready);
      expect(inspected[0]?.host).toEqual(inspected[1]?.host);
    } finally {
      await app.stop();
    }
  });
});

/** What the engine holds a container to, but for the names of its own folder and volume. */
async function hostConfigOf(runtimeId: string): Promise<unknown> {
  const { promisify } = await import('node:util');
  const { execFile } = await import('node:child_process');
  const { stdout } = await promisify(execFile)('docker', ['inspect', '--format', '{{json .HostConfig}}', runtimeId]);
  const { Mounts, ...host } = JSON.parse(stdout);
  return { ...host, mounts: Mounts.map(({ Type, Target, ReadOnly }: Record<string, unknown>) => ({ Type, Target, ReadOnly })) };
}
