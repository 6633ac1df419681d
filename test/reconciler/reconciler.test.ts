import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { AppError } from '../../src/lib/errors.js';
import { newId } from '../../src/lib/ids.js';
import { FakeRuntime } from '../../src/runtime/fake/fake.js';
import { startApp, type TestApp, type TestAppOptions } from '../support/app.js';
import { until } from '../support/until.js';

let apps: TestApp[] = [];
afterEach(async () => {
  for (const app of apps.toReversed()) await app.stop();
  apps = [];
});

async function start(options: TestAppOptions = {}): Promise<TestApp> {
  const app = await startApp(options);
  apps.push(app);
  return app;
}

/** A user with one agent that is ready, and its instance. */
async function settled(app: TestApp) {
  const user = await app.user();
  await app.agent(user, 'a');
  await app.ready(user);
  const status = async () => (await app.get('/api/v1/deploy/status', user.key)).json.deployments[0];
  const { instance } = await status();
  const name =
    [...app.engine.instances.keys()].find((key) => app.engine.instances.get(key)?.spec.instanceId === instance.id) ?? '';
  return { user, status, instance, name };
}

const ofUser = (app: TestApp, userId: string) => [...app.engine.instances.values()].filter((one) => one.spec.userId === userId);

describe('the reconciler', () => {
  test.each<[string, (app: TestApp, name: string) => void, RegExp]>([
    ['died', (app, name) => app.engine.die(name, { exitCode: 3 }), /exit code 3/],
    ['ran out of memory', (app, name) => app.engine.die(name, { oomKilled: true }), /out of memory/],
    ['was removed from outside', (app, name) => app.engine.vanish(name), /removed from outside/],
  ])('brings back an instance that %s, and says why it failed', async (_, breakIt, reason) => {
    const app = await start();
    const { user, status, instance, name } = await settled(app);
    const seen: string[] = [];
    breakIt(app, name);
    await until(async () => {
      const now = await status();
      if (now.reason) seen.push(now.reason);
      return now.state === 'ready' && now.instance.id !== instance.id;
    }, 'a new instance');
    expect(seen.join('\n')).toMatch(reason);
    expect((await status()).attempts).toBe(1);
    expect(
      (await app.post('/api/v1/agents/a/chat', user.key, { messages: [{ role: 'user', content: 'back?' }] })).json.message,
    ).toBe('You said: back?');
    expect(ofUser(app, user.id)).toHaveLength(1);
  });

  test('an engine that is away is said so, and heals by itself; the API answers all the while', async () => {
    const app = await start();
    const { user } = await settled(app);
    app.engine.goDown();
    const fresh = await app.user();
    await app.agent(fresh, 'b');
    await until(
      async () => (await app.get('/api/v1/deploy/status', fresh.key)).json.reason?.includes('unavailable'),
      'the status to say it',
    );
    expect((await app.get('/ready')).json).toMatchObject({
      status: 'degraded',
      parts: { database: { status: 'ok' }, engine: { status: 'unavailable' } },
    });
    expect((await app.post('/api/v1/agents/a/chat', user.key, { messages: [{ role: 'user', content: 'hi' }] })).status).toBe(200);
    app.engine.comeBack();
    // At once: it does not wait for the end of a pause that grew while the engine was away.
    await app.ready(fresh);
  });

  test.each(['create', 'start', 'inspect', 'remove', 'removeVolume'] as const)(
    'a call of "%s" that fails after it took effect changes nothing in the end',
    async (operation) => {
      const app = await start();
      const user = await app.user();
      app.engine.fail(operation, { times: 2, late: true });
      await app.agent(user, 'a');
      await app.ready(user);
      expect(ofUser(app, user.id)).toHaveLength(1);
      await app.call('DELETE', `/api/v1/users/${user.id}`, { key: app.adminKey });
      await until(async () => (await app.get(`/api/v1/users/${user.id}`, app.adminKey)).status === 404, 'the user to be gone');
      expect(ofUser(app, user.id)).toEqual([]);
      expect([...app.engine.volumes.keys()]).toEqual([]);
    },
  );

  test('an image that is not there is a reason in plain words, tried again with pauses that grow', async () => {
    const app = await start();
    app.engine.fail('create', {
      times: 3,
      error: new AppError('not_found', 'there is no image berth-agent:missing on this engine'),
    });
    const user = await app.user();
    await app.agent(user, 'a');
    const waits: number[] = [];
    await until(async () => {
      const now = (await app.get('/api/v1/deploy/status', user.key)).json.deployments[0];
      if (now.state === 'failing' && now.attempts > waits.length) {
        expect(now.reason).toContain('no image');
        waits.push(Date.parse(now.next_attempt_at) - Date.now());
      }
      return now.state === 'ready';
    }, 'the deployment to be ready after three failures');
    expect(waits.length).toBeGreaterThanOrEqual(2);
    expect(waits.at(-1)).toBeGreaterThan(waits[0] ?? 0);
  });

  test('a container that was restarted from outside is told its agents again', async () => {
    const app = await start();
    const { user, instance, name } = await settled(app);
    const outside = new FakeRuntime({
      installationId: app.installation.id,
      engine: app.engine,
      onStart: (spec, process) => app.gateways.begin(spec, process),
    });
    app.gateways.configs.clear();
    // So quickly that Berth sees it run before and after.
    app.engine.delay('inspect', 300);
    await outside.stop(name, 0);
    await outside.start(name);
    app.engine.delay('inspect', 0);
    await until(() => app.gateways.configs.size > 0, 'the gateway to be told');
    await app.ready(user);
    // The link of the old life may go only now: a turn on it is answered 503, and the next one works.
    await until(
      async () =>
        (await app.post('/api/v1/agents/a/chat', user.key, { messages: [{ role: 'user', content: 'hi' }] })).status === 200,
      'the agent to answer',
    );
    expect((await app.get('/api/v1/deploy/status', user.key)).json.deployments[0].instance.id).toBe(instance.id);
  });

  test('an instance that cannot start as it was made is made anew', async () => {
    const app = await start();
    app.engine.fail('start', { error: new AppError('unprocessable', 'its link folder is missing') });
    const user = await app.user();
    await app.agent(user, 'a');
    await app.ready(user);
    expect(app.engine.calls.get('create')).toBe(2);
    expect(ofUser(app, user.id)).toHaveLength(1);
  });

  test('after a restart of Berth a running instance is adopted, not replaced', async () => {
    const app = await start();
    const { user, instance } = await settled(app);
    const creates = app.engine.calls.get('create');
    // It has been up for long: that its link is away while Berth is, is no reason to end it.
    await app.database.db
      .updateTable('instances')
      .set({ started_at: new Date(Date.now() - 3_600_000) })
      .execute();
    await app.leave();
    app.gateways.silent = true;
    const again = await start({ beside: app, engine: app.engine });
    const inspects = app.engine.calls.get('inspect') ?? 0;
    await until(() => (app.engine.calls.get('inspect') ?? 0) > inspects, 'the reconciler to look at it');
    app.gateways.silent = false;
    const answer = await again.post('/api/v1/agents/a/chat', user.key, { messages: [{ role: 'user', content: 'same?' }] });
    expect(answer.status, answer.text).toBe(200);
    await again.ready(user);
    expect((await again.get('/api/v1/deploy/status', user.key)).json.deployments[0].instance.id).toBe(instance.id);
    expect(app.engine.calls.get('create')).toBe(creates);
  });

  test('an orphan of this installation goes after the grace; what is foreign is not touched', async () => {
    const app = await start();
    const spec = (installationId: string) => ({
      name: `berth-x-${newId('dep')}-1`,
      installationId,
      instanceId: newId('ins'),
      deploymentId: newId('dep'),
      userId: newId('usr'),
      generation: 1,
      image: 'i',
      uid: 1,
      volume: `v-${installationId}`,
      linkDir: '/nowhere',
      hostname: 'h',
      limits: { memoryMib: 1, cpuMillis: 1, pids: 1 },
    });
    const orphan = spec(app.installation.id);
    const foreign = spec(newId('itl'));
    for (const one of [orphan, foreign])
      await new FakeRuntime({ installationId: one.installationId, engine: app.engine }).create(one);
    const folder = newId('ins');
    await mkdir(join(app.config.linkDir, folder), { recursive: true });
    await until(() => !app.engine.instances.has(orphan.name), 'the orphan to be removed');
    await until(async () => !(await readdir(app.config.linkDir)).includes(folder), 'its folder to be removed');
    expect(app.engine.instances.has(foreign.name)).toBe(true);
  });

  test('a link that is cut comes back, and the agent with it', async () => {
    const app = await start();
    const { user, status, instance } = await settled(app);
    app.gateways.cut();
    // A turn that was on its way when the link went may have begun, so it is not run again: 503, and the next one works.
    await until(async () => {
      const answer = await app.post('/api/v1/agents/a/chat', user.key, { messages: [{ role: 'user', content: 'hi' }] });
      expect([200, 503]).toContain(answer.status);
      return answer.status === 200;
    }, 'the agent to answer again');
    expect((await status()).instance.id).toBe(instance.id);
  });

  test('new limits of a tier hold for the container as it runs; nobody is told before that they do', async () => {
    const app = await start();
    const { user, instance } = await settled(app);
    app.engine.delay('update', 300);
    await app.call('PUT', `/api/v1/users/${user.id}/tier`, { key: app.adminKey, body: { tier: 'business' } });
    const watched = await app.get('/api/v1/deploy/status?watch=true', user.key);
    const last = JSON.parse(watched.text.trim().split('data: ').at(-1) ?? '{}');
    expect(last).toMatchObject({
      state: 'ready',
      settled: true,
      deployments: [{ instance: { id: instance.id, generation: 1 } }],
    });
    const [only, ...others] = ofUser(app, user.id);
    expect(others).toEqual([]);
    expect(only?.spec.limits).toEqual({ memoryMib: 4096, cpuMillis: 2000, pids: 512 });
  });

  test('limits that the engine cannot change in place get another container, and the agent goes on', async () => {
    const app = await start();
    const { user, instance } = await settled(app);
    app.engine.fail('update', { error: new AppError('unprocessable', 'the engine does not change the limits') });
    await app.call('PUT', `/api/v1/users/${user.id}/tier`, { key: app.adminKey, body: { tier: 'business' } });
    await app.ready(user);
    const now = (await app.get('/api/v1/deploy/status', user.key)).json.deployments[0];
    expect(now.instance.id).not.toBe(instance.id);
    const [only, ...others] = ofUser(app, user.id);
    expect(others).toEqual([]);
    expect(only?.spec.limits.memoryMib).toBe(4096);
  });

  test('two Berth processes on one Postgres never work twice on one deployment', async () => {
    const app = await start({ database: 'postgres' });
    const other = await start({ beside: app, engine: app.engine });
    const users = await Promise.all(Array.from({ length: 12 }, () => app.user()));
    await Promise.all(users.map((user, index) => (index % 2 ? app : other).agent(user, 'a')));
    await Promise.all(users.map((user) => other.ready(user)));
    expect(app.engine.calls.get('create')).toBe(users.length);
    expect(app.engine.calls.get('start')).toBe(users.length);
    for (const user of users) expect(ofUser(app, user.id)).toHaveLength(1);
    // Whichever made it, both can serve it: each has a socket of its own in the instance's folder.
    for (const one of [app, other]) {
      const answer = await one.post('/api/v1/agents/a/chat', users[0]?.key, { messages: [{ role: 'user', content: 'hi' }] });
      expect(answer.status, answer.text).toBe(200);
    }
    // A key revoked at one is dead at the other.
    const key = (await app.post('/api/v1/keys', users[0]?.key, {})).json;
    expect((await other.get('/api/v1/users/me', key.api_key)).status).toBe(200);
    await app.call('DELETE', `/api/v1/keys/${key.id}`, { key: users[0]?.key });
    await until(
      async () => (await other.get('/api/v1/users/me', key.api_key)).status === 401,
      'the key to be dead at the other process',
      2_000,
    );
  });
});
