import { existsSync } from 'node:fs';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { until } from '../support/until.js';

const MAY_MOUNT = process.getuid?.() === 0 && existsSync('/dev/loop-control');
const DISK_MIB = 24;

// Where no file system can be mounted there are no hard bounds to be shown; the runtime's contract says which it is.
describe.runIf(MAY_MOUNT)('limits of real containers', () => {
  let app: TestApp;
  let later: TestApp | undefined;
  const user = { id: '', name: '', key: '' };
  const neighbour = { ...user };

  beforeAll(async () => {
    const image = process.env.AGENT_IMAGE;
    const env = { DISK_LIMITS: 'hard', ...(image === undefined ? {} : { AGENT_IMAGE: image }) };
    app = await startApp({ database: 'postgres', runtime: 'docker', env, app: { vitals: { everyS: 1, lookEveryMs: 200 } } });
    await sql`update tiers set disk_mib = ${DISK_MIB} where name = 'free'`.execute(app.database.db);
    for (const one of [user, neighbour]) {
      Object.assign(one, await app.user(undefined, 'free'));
      await app.agent(one, 'a');
    }
    for (const one of [user, neighbour]) await app.ready(one, 60_000);
  }, 120_000);
  afterAll(async () => {
    await later?.stop();
    await app.stop();
  });

  async function shell(of: { key: string }, command: string, by = app): Promise<string> {
    const content = `/tool shell ${JSON.stringify({ command })}`;
    const answer = await by.post('/api/v1/agents/a/chat', of.key, { messages: [{ role: 'user', content }] });
    expect(answer.status).toBe(200);
    return answer.json.message;
  }
  const statusOf = async (of: { id: string }, by = app) =>
    (await by.get(`/api/v1/users/${of.id}/deploy/status`, by.adminKey)).json.deployments[0];
  const explain = async (of: { key: string }, by = app) => (await by.get('/api/v1/agents/a/explain', of.key)).json;

  test('who writes until there is no room meets the bound, is shown as full, and harms no neighbour', async () => {
    expect(await shell(user, 'dd if=/dev/zero of=big bs=1M count=200 2>&1; du -m big')).toMatch(/No space left on device/);
    await until(async () => (await statusOf(user)).disk.full, 'it to be seen', 30_000);
    const { disk, notices, state } = await statusOf(user);
    expect({ disk, state }).toMatchObject({ disk: { bound: 'hard', limit_mib: DISK_MIB }, state: 'ready' });
    expect(disk.used_mib).toBeGreaterThanOrEqual(DISK_MIB - 4);
    // The weightiest first; that its CPU was held back while it started may be said too.
    expect(notices[0]).toMatchObject({ code: 'disk_full' });
    expect((await explain(user)).reasons[0]).toMatchObject({
      code: 'disk_full',
      text: expect.stringContaining(`of ${DISK_MIB} MiB`),
    });
    expect(await shell(neighbour, 'dd if=/dev/zero of=some bs=1M count=8 2>&1 && echo fine')).toContain('fine');
    expect((await statusOf(neighbour)).disk.full).toBe(false);
  });

  test('a process out of memory, and CPU that is held back, are shown, and the container goes on', async () => {
    const { instance } = await statusOf(neighbour);
    let isHeldBack = false;
    const busy = shell(
      neighbour,
      'tail /dev/zero; for i in $(seq 20); do [ -e seen ] || timeout 1 sh -c "while :; do :; done"; done',
    );
    await until(
      async () => (isHeldBack ||= (await statusOf(neighbour)).pressure.cpu_throttled_percent > 0),
      'it to be held back',
    );
    await shell(neighbour, 'touch seen');
    await busy;
    await until(async () => (await statusOf(neighbour)).pressure.oom_kills > 0, 'the kill to be seen');
    expect((await statusOf(neighbour)).instance.id).toBe(instance.id);
    const { reasons, actual } = await explain(neighbour);
    expect(reasons.map(({ code }: { code: string }) => code)).toContain('process_out_of_memory');
    expect(actual.instance).toMatchObject({ state: 'running', child_oom_killed: true });
  });

  test('after Berth began anew the bound holds and is seen, also of a container that was stopped and started', async () => {
    await app.leave();
    later = await startApp({ beside: app, runtime: 'docker', env: { DISK_LIMITS: 'hard', AGENT_IMAGE: app.config.agentImage } });
    await later.ready(user, 60_000);
    expect(await shell(user, 'dd if=/dev/zero of=more bs=1M count=200 2>&1', later)).toMatch(/No space left on device/);
    expect((await later.post('/api/v1/agents/a/stop', user.key, {})).status).toBeLessThan(300);
    await until(async () => (await statusOf(user, later)).state === 'asleep', 'it to sleep', 60_000);
    expect((await later.post('/api/v1/agents/a/start', user.key, {})).status).toBeLessThan(300);
    await later.ready(user, 60_000);
    expect(await shell(user, 'dd if=/dev/zero of=more bs=1M count=200 2>&1; rm -f big more; df -m . | tail -1', later)).toMatch(
      /No space left on device/,
    );
    expect(await shell(user, 'dd if=/dev/zero of=again bs=1M count=10 2>&1 && echo fine', later)).toContain('fine');
    const { deployments } = (await later.get(`/api/v1/users/${user.id}/deploy/status`, later.adminKey)).json;
    expect(existsSync(`${later.config.diskDir}/berth-${deployments[0].id}`)).toBe(true);
    expect((await later.call('DELETE', `/api/v1/users/${user.id}`, { key: later.adminKey })).status).toBe(202);
    await until(
      async () => (await later!.get(`/api/v1/users/${user.id}`, later!.adminKey)).status === 404,
      'it to be gone',
      60_000,
    );
    expect(existsSync(`${later.config.diskDir}/berth-${deployments[0].id}`)).toBe(false);
  });
});
