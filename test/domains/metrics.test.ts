import { readFile } from 'node:fs/promises';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { until } from '../support/until.js';

interface Metric {
  type: string;
  help: string;
  /** Lines of values, labels and all. */
  series: Map<string, number>;
}

let app: TestApp;
let user: { id: string; name: string; key: string };
beforeAll(async () => {
  app = await startApp();
  user = await app.user();
  await app.agent(user, 'ada');
  await app.ready(user);
});
afterAll(() => app.stop());

/** What Prometheus would scrape. */
async function scrape(path = '/metrics'): Promise<Map<string, Metric>> {
  const { status, text } = await app.get(path);
  expect(status).toBe(200);
  const metrics = new Map<string, Metric>();
  for (const line of text.split('\n')) {
    const [, word, name = '', rest = ''] = /^# (HELP|TYPE) (\S+) (.*)$/.exec(line) ?? [];
    if (word !== undefined) {
      const known = metrics.get(name) ?? { type: '', help: '', series: new Map() };
      metrics.set(name, { ...known, [word === 'HELP' ? 'help' : 'type']: rest });
      continue;
    }
    const [, series, value] = /^(\S+?(?:\{.*\})?) (\S+)$/.exec(line) ?? [];
    if (series === undefined) continue;
    const of = series.split('{')[0]!;
    const owner = metrics.get(of) ?? metrics.get(of.replace(/_(bucket|sum|count)$/, ''));
    owner?.series.set(series, Number(value));
  }
  return metrics;
}

describe('metrics', () => {
  test('are named and described as Prometheus would have them, with labels of few values', async () => {
    const metrics = await scrape();
    const own = [...metrics].filter(([name]) => /^(berth|http)_/.test(name));
    expect(own.length).toBeGreaterThan(20);
    for (const [name, { type, help, series }] of own) {
      expect(help, name).not.toBe('');
      if (type === 'counter') expect(name).toMatch(/_total$/);
      if (type === 'histogram') expect(name).toMatch(/_seconds$/);
      for (const one of series.keys()) expect(one).not.toMatch(/(usr|agt|dep|ins|key|cnv|trn|req)_[0-9a-z]{26}/);
    }
    // Row D of the endpoints has them below the API's base.
    expect([...(await scrape('/api/v1/metrics')).keys()]).toEqual([...metrics.keys()]);
  });

  test('tell how long a deploy took, by stage, and a turn, in buckets from a millisecond to a minute', async () => {
    const answer = await app.post('/api/v1/agents/ada/chat', user.key, { messages: [{ role: 'user', content: 'hi' }] });
    expect(answer.status, answer.text).toBe(200);
    await until(
      async () =>
        ((await scrape()).get('berth_relay_turn_duration_seconds')?.series.get('berth_relay_turn_duration_seconds_count') ?? 0) >
        0,
      'the turn to be counted',
    );
    const metrics = await scrape();
    const stages = metrics.get('berth_deploy_stage_duration_seconds')!.series;
    for (const stage of ['queued', 'creating', 'starting', 'connecting', 'configuring'])
      expect(stages.get(`berth_deploy_stage_duration_seconds_count{stage="${stage}"}`), stage).toBeGreaterThan(0);
    const first = metrics.get('berth_relay_first_event_seconds')!.series;
    expect(first.get('berth_relay_first_event_seconds_count')).toBeGreaterThan(0);
    const told = metrics.get('berth_gateway_configure_duration_seconds')!.series;
    expect(told.get('berth_gateway_configure_duration_seconds_count')).toBeGreaterThan(0);
    const bounds = [...first.keys()].flatMap((series) => /le="([^"]+)"/.exec(series)?.[1] ?? []);
    expect([bounds[0], bounds.at(-2), bounds.at(-1)]).toEqual(['0.001', '60', '+Inf']);
    expect(metrics.get('berth_reconcile_steps_total')!.series.get('berth_reconcile_steps_total{step="start"}')).toBeGreaterThan(
      0,
    );
    expect(metrics.get('berth_deployments')!.series.size).toBe(6);
  });

  test('are as many with ten thousand agents as with one', async () => {
    const count = async () => [...(await scrape()).values()].reduce((sum, { series }) => sum + series.size, 0);
    const ask = (agent: string) => app.get(`/api/v1/users/${user.name}/agents/${agent}`, user.key);
    await Promise.all([ask('ada'), app.get('/api/v1/system/metrics', app.adminKey), ask('nobody'), scrape()]);
    const before = await count();
    await sql`
      insert into agents (id, user_id, deployment_id, name, model, isolation, config_version)
      select 'agt_' || lpad(n::text, 26, '0'), a.user_id, a.deployment_id, 'agent-' || n, a.model, a.isolation, 1
      from agents a, generate_series(1, 9999) n where a.user_id = ${user.id} and a.name = 'ada'`.execute(app.database.db);
    for (let n = 1; n < 9_999; n += 100) expect((await ask(`agent-${n}`)).status).toBe(200);
    // A job or a step may run for the first time meanwhile; a series for each agent asked for would be hundreds more.
    expect((await count()) - before).toBeLessThan(100);
    expect(before).toBeLessThan(3_000);
    await sql`delete from agents where name like 'agent-%'`.execute(app.database.db);
  });

  test('are what the dashboard asks for', async () => {
    const known = await scrape();
    const { panels } = JSON.parse(await readFile(new URL('../../docs/grafana-dashboard.json', import.meta.url), 'utf8')) as {
      panels: { targets?: { expr: string }[] }[];
    };
    const asked = panels
      .flatMap(({ targets = [] }) => targets)
      .flatMap(({ expr }) => expr.match(/\b(?:berth|http|process|nodejs)_\w+/g) ?? []);
    expect(asked.length).toBeGreaterThan(25);
    const isKnown = (name: string) =>
      known.has(name) || known.get(name.replace(/_(bucket|count|sum)$/, ''))?.type === 'histogram';
    expect(asked.filter((name) => !isKnown(name))).toEqual([]);
    const own = [...known.keys()].filter((name) => /^(berth|http)_/.test(name) && name !== 'berth_build_info');
    expect(own.filter((name) => !asked.some((one) => one.startsWith(name)))).toEqual([]);
  });
});

describe('health', () => {
  test('/ready tells each thing that Berth depends on, and what is away', async () => {
    const whole = await app.get('/ready');
    expect([whole.status, whole.json.status]).toEqual([200, 'ready']);
    expect(Object.keys(whole.json.parts)).toEqual(['database', 'vault', 'engine', 'links', 'disk']);
    app.engine.goDown();
    const degraded = await app.get('/ready');
    app.engine.comeBack();
    expect([degraded.status, degraded.json]).toMatchObject([
      200,
      { status: 'degraded', parts: { engine: { status: 'unavailable' }, vault: { status: 'ok' } } },
    ]);
    const { key_check: right } = await app.database.db.selectFrom('installation').select('key_check').executeTakeFirstOrThrow();
    await sql`update installation set key_check = ${Buffer.concat([right.subarray(0, 1), Buffer.alloc(32)])}`.execute(
      app.database.db,
    );
    const locked = await app.get('/ready');
    await sql`update installation set key_check = ${right}`.execute(app.database.db);
    expect([locked.status, locked.json]).toMatchObject([
      503,
      { status: 'unavailable', parts: { vault: { status: 'unavailable' }, database: { status: 'ok' } } },
    ]);
    // It is said to anybody: nothing of the inside.
    expect(locked.text).not.toMatch(/MASTER_KEY|DATA_DIR|\//);
  });

  test('the figures are those of the installation', async () => {
    const figures = await app.get('/api/system/metrics', app.adminKey);
    expect(figures.json).toMatchObject({
      users: 1,
      agents: expect.any(Number),
      instances: 1,
      deployments: { ready: 1, failing: 0 },
      processes: 1,
      process: { links: 1 },
    });
    expect((await app.get('/api/v1/monitoring/health', app.adminKey)).json).toMatchObject({
      status: 'ready',
      figures: { users: 1 },
    });
    expect((await app.get('/api/v1/settings/health', app.adminKey)).json).toMatchObject({
      status: 'ready',
      parts: { disk: { status: 'ok' } },
    });
    expect((await app.get('/api/v1/system/metrics', user.key)).status).toBe(403);
  });
});
