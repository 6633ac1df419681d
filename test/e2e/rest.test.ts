import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { sql } from 'kysely';
import { startApp, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';
import { until } from '../support/until.js';

const RUNTIMES = [
  ...databaseKinds.map((database) => ({ database, runtime: 'fake' as const })),
  { database: 'postgres' as const, runtime: 'docker' as const },
];

describe.each(RUNTIMES)('a container that nobody uses ($runtime, $database)', ({ database, runtime }) => {
  let app: TestApp;
  beforeAll(async () => {
    const image = process.env.AGENT_IMAGE;
    const env: Record<string, string> = image === undefined ? {} : { AGENT_IMAGE: image };
    app = await startApp({ database, runtime, env, app: { rest: { everyMs: 50, pausedS: 1 } } });
    await sql`update tiers set idle_timeout_s = 1 where name = 'free'`.execute(app.database.db);
  });
  afterAll(() => app.stop());

  const say = (key: string, content = 'hello', signal?: AbortSignal) =>
    app.call('POST', '/api/v1/agents/a/chat', {
      key,
      body: { messages: [{ role: 'user', content }] },
      ...(signal ? { signal } : {}),
    });
  // By the admin, whose requests are not limited.
  const restOf = async ({ id }: { id: string }) =>
    (await app.get(`/api/v1/users/${id}/deploy/status`, app.adminKey)).json.deployments[0];
  const rests = (user: { id: string }, rest: string) =>
    until(async () => {
      const { rest: now, state } = await restOf(user);
      return now === rest && state === 'asleep';
    }, `it to be ${rest}`);

  test('is paused, later stopped, and a turn wakes it from both', async () => {
    const user = await app.user(undefined, 'free');
    await app.agent(user, 'a');
    expect(await say(user.key)).toMatchObject({ status: 200 });
    const { instance } = await restOf(user);
    await rests(user, 'paused');
    const woken = await say(user.key);
    expect([woken.status, woken.text]).toEqual([200, expect.stringContaining('You said')]);
    expect((await restOf(user)).instance.id).toBe(instance.id);
    await rests(user, 'stopped');
    const answer = await say(user.key, 'are you there');
    expect([answer.status, answer.text]).toEqual([200, expect.stringContaining('You said')]);
    expect(answer.json.message).toContain('are you there');
    expect((await restOf(user)).instance.id).toBe(instance.id);
    const types = 'deployment.paused,deployment.stopped,deployment.woken';
    const { data } = (await app.get(`/api/v1/users/${user.id}/events?type=${types}`, app.adminKey)).json;
    const told = data.map((event: { type: string; data: { cause: string } }) => `${event.type} ${event.data.cause}`);
    expect(told.slice(0, 2)).toEqual(['deployment.paused idle', 'deployment.woken turn']);
    expect(told).toEqual(expect.arrayContaining(['deployment.stopped idle']));
    // What woke it stands after its last rest, whatever rest came after that.
    expect(told.slice(told.indexOf('deployment.stopped idle'))[1]).toBe('deployment.woken turn');
  });

  test('is not spoken to over a link that its end left open', async () => {
    const user = await app.user(undefined, 'free');
    await app.agent(user, 'a');
    expect(await say(user.key)).toMatchObject({ status: 200 });
    app.gateways.lingering = true;
    await rests(user, 'stopped');
    const { instance } = await restOf(user);
    const seen = async () => (await app.runtime.list()).instances.find((one) => one.instanceId === instance.id)?.state;
    await until(async () => (await seen()) === 'exited', 'it to be stopped');
    const answer = await say(user.key);
    expect([answer.status, answer.text]).toEqual([200, expect.stringContaining('You said')]);
    app.gateways.lingering = false;
  });

  test('rests neither while a turn runs nor in a tier that never rests', async () => {
    const [free, business] = [await app.user(undefined, 'free'), await app.user(undefined, 'business')];
    for (const user of [free, business]) await app.agent(user, 'a');
    for (const user of [free, business]) await app.ready(user);
    const idle = await app.user(undefined, 'free');
    await app.agent(idle, 'a');
    await app.ready(idle);
    let ended = false;
    if (runtime === 'fake') {
      app.gateways.script = async (_, response) => {
        await until(() => ended, 'the test to end the turn');
        response.end('data: [DONE]\n\n');
      };
    }
    // Longer than the test, by the words of the real gateway: whoever hangs up ends it.
    const hangUp = new AbortController();
    const turn = say(free.key, '/slow 2000 50', hangUp.signal);
    let isOver = false;
    const over = turn.then(
      ({ status }) => ((isOver = true), status),
      () => 0,
    );
    // It may have begun to rest before its turn came, and is woken then.
    const awake = () => until(async () => (await restOf(free)).state === 'ready', 'the one with the turn to be awake');
    await awake();
    await rests(idle, 'paused');
    if (runtime === 'fake') await rests(idle, 'stopped');
    await awake();
    expect(isOver).toBe(false);
    expect(await restOf(free)).toMatchObject({ state: 'ready', rest: null });
    expect(await restOf(business)).toMatchObject({ state: 'ready', rest: null });
    ended = true;
    if (runtime !== 'fake') hangUp.abort();
    expect(await over).toBe(runtime === 'fake' ? 200 : 0);
    app.gateways.script = undefined;
  });

  test('is left alone for as long as an agent in it asked for, and rests after that', async () => {
    const user = await app.user(undefined, 'free');
    await app.agent(user, 'a');
    await app.ready(user);
    const idleInS = async () => {
      const { rows } = await sql<{ s: number }>`select extract(epoch from idle_at - now())::float8 as s from deployments
        where user_id = ${user.id}`.execute(app.database.db);
      return rows[0]?.s ?? 0;
    };
    if (runtime === 'fake') app.gateways.busyS = 2;
    else expect(await say(user.key, '/tool keep_awake {"minutes":1}')).toMatchObject({ status: 200 });
    // Its idle time is over, it is asked, and asks for more time.
    await until(async () => (await idleInS()) > (runtime === 'fake' ? 1.5 : 30), 'its time to be prolonged');
    expect(await restOf(user)).toMatchObject({ state: 'ready', rest: null });
    if (runtime !== 'fake') return;
    // One that is too slow to say whether it works may be so for its work.
    app.gateways.busyS = 'silent';
    await until(async () => (await idleInS()) > 3, 'its time to be prolonged for want of an answer');
    expect(await restOf(user)).toMatchObject({ state: 'ready', rest: null });
    app.gateways.busyS = 0;
    await rests(user, 'paused');
  });

  test('is woken by start, and can be deleted while it sleeps', async () => {
    const user = await app.user(undefined, 'free');
    await app.agent(user, 'a');
    await app.ready(user);
    await rests(user, 'paused');
    expect((await app.post('/api/v1/agents/a/start', user.key, undefined)).status).toBe(202);
    await until(async () => (await restOf(user)).state === 'ready', 'it to be awake');
    const woken = (await app.get(`/api/v1/users/${user.id}/events?type=deployment.woken`, app.adminKey)).json.data;
    expect(woken.map((event: { data: object }) => event.data)).toEqual([{ deployment_id: expect.any(String), cause: 'asked' }]);
    await rests(user, 'stopped');
    expect((await app.call('DELETE', '/api/v1/agents/a', { key: user.key })).status).toBe(202);
    await app.ready(user);
  });
});
