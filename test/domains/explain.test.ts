import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';
import { until } from '../support/until.js';

describe.each(databaseKinds)('why an agent is as it is (%s)', (database) => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp({ database, runtime: 'fake', app: { rest: { everyMs: 50, pausedS: 600 } } });
    await sql`update tiers set idle_timeout_s = null where name = 'pro'`.execute(app.database.db);
    await sql`update tiers set idle_timeout_s = 1 where name = 'free'`.execute(app.database.db);
  });
  afterAll(() => app.stop());

  const explain = async (key: string) => {
    const answer = await app.get('/api/v1/agents/a/explain', key);
    expect(answer.status).toBe(200);
    return answer.json;
  };
  const stats = async (key: string) => {
    const answer = await app.get('/api/v1/agents/a/stats', key);
    expect(answer.status).toBe(200);
    return answer.json;
  };
  const say = (key: string) => app.post('/api/v1/agents/a/chat', key, { messages: [{ role: 'user', content: 'hello' }] });
  const instanceOf = (deploymentId: string) =>
    [...app.engine.instances.values()].find(({ spec }) => spec.deploymentId === deploymentId)!;

  test('one that runs is ok, with its figures, its last turn and no failure', async () => {
    const user = await app.user();
    const agent = await app.agent(user, 'a');
    await app.ready(user);
    expect((await say(user.key)).status).toBe(200);
    await until(async () => (await explain(agent.key)).log.length > 0, 'its log to be taken up');
    const answer = await explain(agent.key);
    expect(answer).toMatchObject({
      agent: 'a',
      verdict: 'ok',
      summary: 'Agent a runs and can be talked to.',
      reasons: [],
      desired: { agent: 'running', deployment: 'running' },
      actual: {
        state: 'ready',
        linked: true,
        engine: { answers: true },
        instance: { state: 'running', memory_bytes: 33_554_432 },
      },
      last_turn: { status: 'finished', error: null },
      last_failure: null,
    });
    expect(answer.events.map(({ type }: { type: string }) => type)).toEqual(
      expect.arrayContaining(['agent.created', 'deployment.ready']),
    );
    expect(await stats(agent.key)).toMatchObject({
      running: true,
      shared: true,
      memory_bytes: 33_554_432,
      cpu_percent: 0,
      restarts_24h: 0,
      turns: { today: 1, month: 1, failed_month: 0, running: 0 },
      note: null,
    });
  });

  test('one that was stopped says by whom it is started, and its figures are null', async () => {
    const user = await app.user();
    await app.agent(user, 'a');
    await app.ready(user);
    await app.post('/api/v1/agents/a/stop', user.key, undefined);
    await app.ready(user);
    const answer = await explain(user.key);
    expect(answer).toMatchObject({
      verdict: 'stopped',
      desired: { agent: 'stopped' },
      actual: { state: 'asleep', instance: null },
    });
    expect(answer.you_can.join()).toContain('/start');
    expect(answer.last_failure).toBeNull();
    expect(answer.events[0].type).toMatch(/^(agent.stopped|deployment.asleep)$/);
    expect(await stats(user.key)).toMatchObject({ running: false, memory_bytes: null, cpu_percent: null, uptime_s: null });
  });

  test('one that rests says so and what wakes it, and is not woken by the question', async () => {
    const user = await app.user(undefined, 'free');
    await app.agent(user, 'a');
    await app.ready(user);
    await until(async () => (await explain(user.key)).verdict === 'asleep', 'it to rest');
    await until(async () => (await explain(user.key)).actual.instance.state === 'paused', 'it to be paused');
    const answer = await explain(user.key);
    expect(answer).toMatchObject({ verdict: 'asleep', reasons: [{ code: 'paused' }], actual: { rest: 'paused' } });
    expect(answer.next[1]).toMatchObject({ what: 'stops it unless it is used before', at: expect.any(String) });
    expect((await stats(user.key)).running).toBe(false);
  });

  test('one out of memory fails with the cause, the exit code, the OOM flag, and when it is tried again', async () => {
    const user = await app.user();
    const { deploymentId } = await app.agent(user, 'a');
    await app.ready(user);
    await until(async () => {
      const instance = instanceOf(deploymentId);
      if (instance?.observed.state === 'running') app.engine.die(instance.spec.name, { oomKilled: true });
      return (await explain(user.key)).verdict === 'failing';
    }, 'it to fail');
    const answer = await explain(user.key);
    expect(answer).toMatchObject({
      reasons: [{ code: 'out_of_memory' }],
      last_failure: {
        cause: 'the container ran out of memory and was killed',
        evidence: { exit_code: 137, oom_killed: true },
      },
    });
    expect(answer.summary).toContain('ran out of memory');
    expect(answer.next[0]).toMatchObject({ what: expect.stringContaining('tries again'), at: expect.any(String) });
    expect(answer.you_can[0]).toContain('more memory');
    expect(answer.events.some(({ type }: { type: string }) => type === 'deployment.failed')).toBe(true);
    await app.ready(user);
    // What it was is still known when it is well again.
    expect(await explain(user.key)).toMatchObject({ verdict: 'ok', last_failure: { evidence: { oom_killed: true } } });
    expect((await stats(user.key)).restarts_24h).toBeGreaterThan(0);
  });

  test('a month that is used up and a model that nobody serves are refusals', async () => {
    const user = await app.user();
    const agent = await app.agent(user, 'a');
    await app.ready(user);
    const { db } = app.database;
    await sql`insert into usage_months (user_id, month, tokens)
      values (${user.id}, to_char(now() at time zone 'utc', 'YYYY-MM'), 1000000000000)`.execute(db);
    const answer = await explain(agent.key);
    expect(answer).toMatchObject({ verdict: 'refusing', reasons: [{ code: 'budget_used_up' }], budget: { tier: 'pro' } });
    expect(answer.next[0].at).toMatch(/-01T00:00:00/);
    await sql`delete from usage_months where user_id = ${user.id}`.execute(db);
    await sql`update agents set model = 'nobody/x' where id = ${agent.id}`.execute(db);
    expect(await explain(agent.key)).toMatchObject({ verdict: 'refusing', reasons: [{ code: 'model_not_served' }] });
  });

  test('an engine that is away or hangs is said, and the answer comes all the same', async () => {
    const user = await app.user();
    await app.agent(user, 'a');
    await app.ready(user);
    app.engine.goDown();
    try {
      const answer = await explain(user.key);
      expect(answer.actual).toMatchObject({ engine: { answers: false }, instance: { state: 'unknown' } });
      expect(answer.reasons.map(({ code }: { code: string }) => code)).toContain('engine_away');
      expect(await stats(user.key)).toMatchObject({ running: false, memory_bytes: null, note: expect.any(String) });
    } finally {
      app.engine.comeBack();
    }
    app.engine.delay('inspect', 10_000);
    try {
      const began = performance.now();
      expect((await explain(user.key)).actual.engine.answers).toBe(false);
      expect(performance.now() - began).toBeLessThan(6_000);
    } finally {
      app.engine.delay('inspect', 0);
    }
  });

  test('shows nothing of siblings, of other tenants, nor a secret in the log', async () => {
    const [user, other] = [await app.user(), await app.user()];
    const { deploymentId, key } = await app.agent(user, 'a');
    await app.agent(user, 'b');
    await app.agent(other, 'a');
    await app.ready(user);
    const secret = { SHOP_TOKEN: 'geheimnis-4711-abc' };
    expect((await app.call('PUT', '/api/v1/users/me/secrets', { key: user.key, body: secret })).status).toBeLessThan(300);
    await app.ready(user);
    const program = app.gateways.programs.get(instanceOf(deploymentId).spec.instanceId)!;
    program.log('stdout', JSON.stringify({ level: 'info', msg: 'of b', agent: 'b' }));
    program.log('stdout', JSON.stringify({ level: 'info', msg: 'of a geheimnis-4711-abc', agent: 'a' }));
    await until(async () => JSON.stringify(await explain(key)).includes('of a'), 'the log to be taken up');
    const answer = await explain(key);
    const text = JSON.stringify(answer);
    for (const hidden of ['of b', 'geheimnis', other.id]) expect(text).not.toContain(hidden);
    expect(answer.events.filter(({ type }: { type: string }) => type === 'agent.created')).toHaveLength(1);
    expect((await app.get(`/api/v1/users/${user.id}/agents/a/explain`, other.key)).status).toBe(404);
    expect((await app.get('/api/v1/agents/none/explain', user.key)).status).toBe(404);
  });
});
