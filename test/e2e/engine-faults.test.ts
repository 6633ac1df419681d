import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { PrivateEngine } from '../runtime/private-engine.js';
import { startApp, type TestApp } from '../support/app.js';
import { until } from '../support/until.js';
import { instanceOf, say, shell, type Tenant, tenant } from './inside.js';

const run = promisify(execFile);
const IMAGE = 'berth-agent:latest';

/** An engine of this file's own, since it is stopped and frozen; with the image that users get. */
let engine: PrivateEngine;
const apps: TestApp[] = [];

beforeAll(async () => {
  engine = await PrivateEngine.create(1_500);
  await engine.start();
  await run('sh', ['-c', `docker save ${IMAGE} | docker -H ${engine.host} load`]);
});
afterAll(async () => {
  await engine.start();
  for (const app of apps) await app.stop();
  await engine.dispose();
});

async function start(env: Record<string, string> = {}): Promise<TestApp> {
  const app = await startApp({ runtime: 'docker', env: { DOCKER_HOST: engine.host, ...env } });
  apps.push(app);
  return app;
}

const docker = (...args: string[]) => run('docker', ['-H', engine.host, ...args]);

/** Asked for by the admin, who has no rate limit. */
async function status(app: TestApp, who: { id: string }) {
  return (await app.get(`/api/v1/users/${who.id}/deploy/status`, app.adminKey)).json.deployments[0];
}

/** Waits until the tenant has another instance that is ready; answers the reasons that its status gave meanwhile. */
async function untilReplaced(app: TestApp, who: Tenant, instanceId: string): Promise<string> {
  const reasons = new Set<string>();
  await until(
    async () => {
      const now = await status(app, who);
      if (now.reason) reasons.add(now.reason);
      return now.state === 'ready' && now.instance.id !== instanceId;
    },
    'another instance',
    60_000,
  );
  return [...reasons].join('; ');
}

async function untilReason(app: TestApp, who: { id: string }, reason: RegExp): Promise<void> {
  let last = '';
  await until(
    async () => reason.test((last = JSON.stringify(await status(app, who)))),
    () => `${reason} in ${last}`,
    40_000,
  );
}

describe('an instance that goes', () => {
  let app: TestApp;
  let ada: Tenant;
  beforeAll(async () => {
    app = await start();
    ada = await tenant(app, { tier: 'free' });
  });

  test('by docker rm -f comes back, and says why; its workspace is as it was', async () => {
    await shell(app, ada, 'echo kept > notes');
    const { id, container } = await instanceOf(app, ada);
    await docker('rm', '-f', container);
    expect(await untilReplaced(app, ada, id)).toMatch(/removed from outside|was killed/);
    expect(await shell(app, ada, 'cat notes')).toBe('kept');
  });

  test('by docker kill, and by docker stop, comes back', async () => {
    for (const [how, why] of [
      ['kill', 'exit code 137'],
      ['stop', 'exit code'],
    ] as const) {
      const { id, container } = await instanceOf(app, ada);
      await docker(how, container);
      expect(await untilReplaced(app, ada, id)).toContain(why);
    }
  });

  test('out of memory comes back, and the turn that it took along ends in an error', async () => {
    const { id } = await instanceOf(app, ada);
    // Many small ones: the gateway is then the largest, which is what the kernel ends.
    const command = 'for i in $(seq 100); do python3 -c "x = bytearray(9 << 20); import time; time.sleep(60)" & done; wait';
    const turn = app.post('/api/v1/agents/a/chat', ada.key, {
      messages: [{ role: 'user', content: `/tool shell ${JSON.stringify({ command })}` }],
    });
    expect(await untilReplaced(app, ada, id)).toContain('out of memory');
    expect([502, 503]).toContain((await turn).status);
    expect(await say(app, ada, 'back?')).toBe('You said: back?');
  }, 90_000);

  test('paused from outside is thawed', async () => {
    const { container } = await instanceOf(app, ada);
    await docker('pause', container);
    await app.call('PUT', '/api/v1/agents/a', { key: ada.key, body: { description: 'look again' } });
    await until(
      async () => (await docker('inspect', '-f', '{{.State.Status}}', container)).stdout.trim() === 'running',
      'it to be thawed',
    );
    expect(await say(app, ada, 'awake?')).toBe('You said: awake?');
  });
});

describe('an engine that goes', () => {
  let app: TestApp;
  let ada: Tenant;
  beforeAll(async () => {
    app = await start();
    ada = await tenant(app);
    // An engine that goes takes along what was not read of it yet.
    await until(async () => (await app.get('/api/v1/logs', ada.key)).text.includes('started'), 'its log to be taken up');
  });

  /** What does not need the engine works; what does says that it is not there. */
  async function goesOnWithout(fresh: { id: string; key: string }): Promise<void> {
    expect((await app.get('/health')).status).toBe(200);
    expect((await app.get('/ready')).json).toMatchObject({
      parts: { database: { status: 'ok' }, engine: { status: 'unavailable' } },
    });
    expect((await app.get('/api/v1/users', app.adminKey)).status).toBe(200);
    await app.agent(fresh, 'b');
    await untilReason(app, fresh, /unavailable/);
    // What was printed is there without the engine, and that no more comes is said.
    await until(async () => (await app.get('/api/v1/logs', ada.key)).json.waiting !== null, 'why no lines come');
    const logs = (await app.get('/api/v1/logs', ada.key)).json;
    expect(logs.waiting).toMatch(/engine/);
    expect(logs.data.map(({ message }: { message: string }) => message).join()).toContain('started');
    expect((await app.get('/api/v1/agents/b/ping', fresh.key)).status).toBe(503);
  }

  test('is stopped and started again: Berth answers, says so, and all comes back', async () => {
    const fresh = await app.user();
    await engine.stop();
    await goesOnWithout(fresh);
    await engine.start();
    await Promise.all([app.ready(ada, 60_000), app.ready(fresh, 60_000)]);
    expect(await say(app, ada, 'back?')).toBe('You said: back?');
    const { instances } = await app.runtime.list();
    expect(instances.filter((one) => one.state === 'running')).toHaveLength(2);
    await until(async () => (await app.get('/ready')).json.status === 'ready', 'Berth to be ready');
  }, 120_000);

  test('is frozen and thawed: agents that run go on, and what waited comes', async () => {
    const fresh = await app.user();
    engine.freeze();
    const [, answer] = await Promise.all([goesOnWithout(fresh), say(app, ada, 'meanwhile?')]).catch((error: unknown) => {
      engine.thaw();
      throw error;
    });
    expect(answer).toBe('You said: meanwhile?');
    const gone = await app.call('DELETE', `/api/v1/users/${fresh.id}`, { key: app.adminKey });
    expect(gone.status).toBe(202);
    engine.thaw();
    await until(
      async () => (await app.get(`/api/v1/users/${fresh.id}`, app.adminKey)).status === 404,
      'the deletion to end',
      60_000,
    );
    expect(await say(app, ada, 'and now?')).toBe('You said: and now?');
  }, 120_000);
});

describe('at the start of Berth', () => {
  test('the engine may be down: what is wished meanwhile comes when it is up', async () => {
    await engine.stop();
    const app = await start();
    const user = await app.user();
    await app.agent(user, 'early');
    await untilReason(app, user, /engine is not there/);
    await engine.start();
    await app.ready(user, 60_000);
  }, 90_000);

  test('the image may be missing: the status says so, and it goes on once it is built', async () => {
    const app = await start({ AGENT_IMAGE: 'berth-later:1' });
    const user = await app.user();
    await app.agent(user, 'early');
    await untilReason(app, user, /the agent image is missing.*berth-later/);
    await docker('tag', IMAGE, 'berth-later:1');
    await app.ready(user, 60_000);
  }, 90_000);
});
