import { afterEach, describe, expect, test } from 'vitest';
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

describe('a deployment that fails', () => {
  test('an instance that dies each time it starts is made anew with pauses that grow', async () => {
    const app = await start();
    app.gateways.begin = async (_, process) => process.exit(1);
    const user = await app.user();
    await app.agent(user, 'a');
    const made = () =>
      app.database.db
        .selectFrom('instances')
        .select(['generation', 'created_at'])
        .where('user_id', '=', user.id)
        .orderBy('generation')
        .execute();
    await until(async () => (await made()).length >= 4, 'four attempts');
    const times = (await made()).map((row) => row.created_at.getTime());
    const gaps = times.slice(1, 4).map((time, index) => time - (times[index] ?? 0));
    expect(gaps[0]).toBeGreaterThanOrEqual(390);
    expect(gaps[1]).toBeGreaterThanOrEqual(790);
    expect(gaps[2]).toBeGreaterThanOrEqual(1_590);
  });

  test('a stage that failed is among the stages, closed', async () => {
    const app = await start();
    app.engine.fail('start', { times: 20 });
    const user = await app.user();
    await app.agent(user, 'a');
    let status: { state: string; stage: string; stages: { stage: string; ms: number | null }[] } | undefined;
    await until(async () => {
      status = (await app.get('/api/v1/deploy/status', user.key)).json.deployments[0];
      return status?.state === 'failing';
    }, 'it to fail');
    expect(status?.stage).toBe('starting');
    expect(status?.stages.at(-1)).toMatchObject({ stage: 'starting', ms: expect.any(Number) });
  });

  test('waits out its pause whatever is seen of it, but goes at once when it is to go', async () => {
    const app = await start();
    app.gateways.begin = async (_, process) => process.exit(1);
    const user = await app.user();
    const { deploymentId } = await app.agent(user, 'a');
    const row = () =>
      app.database.db.selectFrom('deployments').select(['attempts', 'state']).where('id', '=', deploymentId).executeTakeFirst();
    await until(async () => ((await row())?.attempts ?? 0) >= 5, 'five failures');
    expect((await app.call('DELETE', '/api/v1/agents/a', { key: user.key })).status).toBe(202);
    await until(async () => (await row()) === undefined, 'the deployment to be gone', 4_000);
  });
});
