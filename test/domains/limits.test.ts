import type { Http2ServerRequest, Http2ServerResponse } from 'node:http2';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { isFull, type Measured, throttledShare } from '../../src/domains/deployments/disk-full.js';
import { type Limited, noticesOf } from '../../src/domains/deployments/notices.js';
import { startApp, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';
import { until } from '../support/until.js';

const MIB = 1024 * 1024;

describe('a disk', () => {
  const hard = (usedMib: number, freeMib: number): Measured => ({
    kind: 'hard',
    use: { usedBytes: usedMib * MIB, freeBytes: freeMib * MIB },
  });
  const soft = (usedMib: number): Measured => ({ kind: 'soft', usedBytes: usedMib * MIB, limitMib: 100 });
  test.each<[string, Measured, boolean, boolean]>([
    ['with room is not full', hard(50, 50), false, false],
    ['of which nothing is left is full', hard(1_000, 0), false, true],
    ['of which a hundredth is left is full', hard(1_000, 9), false, true],
    ['of which some is left is not', hard(1_000, 30), false, false],
    ['that was full stays so until there is some room', hard(1_000, 30), true, true],
    ['that was full is not with that room', hard(900, 100), true, false],
    ['without a bound of its own is full above its bound', soft(101), false, true],
    ['without a bound of its own may be used up', soft(100), false, false],
    ['that was over its bound stays so at the bound', soft(100), true, true],
    ['that was over its bound is not a twentieth below it', soft(94), true, false],
  ])('%s', (_, measured, wasFull, full) => expect(isFull(measured, wasFull)).toBe(full));
});

test.each<[string, Parameters<typeof throttledShare>, number | null]>([
  ['nobody counts', [undefined, undefined], null],
  ['the first look is of all there was', [{ all: 100, throttled: 25 }, undefined], 0.25],
  [
    'later ones are of what was since',
    [
      { all: 200, throttled: 100 },
      { all: 100, throttled: 25 },
    ],
    0.75,
  ],
  [
    'nothing wanted CPU',
    [
      { all: 100, throttled: 25 },
      { all: 100, throttled: 25 },
    ],
    0,
  ],
  [
    'it was started anew',
    [
      { all: 10, throttled: 5 },
      { all: 100, throttled: 25 },
    ],
    0.5,
  ],
])('the share in which CPU is held back: %s', (_, args, share) => expect(throttledShare(...args)).toBe(share));

describe('what limits do, in words', () => {
  const now = Date.parse('2030-01-01T12:00:00Z');
  const limited: Limited = {
    disk: 'hard',
    disk_size_mib: 100,
    disk_pending: false,
    disk_used_mib: 99,
    disk_full_at: null,
    limits: { cpu_millis: 250 },
    disk_mib: 100,
    memory_mib: 256,
    cpu_millis: 500,
    oom_kills: 0,
    oom_at: null,
    cpu_throttled: 0.1,
  };
  test.each<[string, Partial<Limited>, [string, string][]]>([
    ['nothing', {}, []],
    ['a full disk', { disk_full_at: new Date(now) }, [['disk_full', '99 of 100 MiB']]],
    ['a soft one', { disk: 'soft', disk_full_at: new Date(now), disk_used_mib: 130 }, [['disk_over_bound', '130 of 100 MiB']]],
    ['one that grows later', { disk_pending: true, disk_size_mib: 200 }, [['disk_grows_later', '200 MiB']]],
    ['a process out of memory', { oom_kills: 2, oom_at: new Date(now - 60_000) }, [['process_out_of_memory', '2 times']]],
    ['one of long ago', { oom_kills: 2, oom_at: new Date(now - 7_200_000) }, []],
    [
      'CPU held back',
      { cpu_throttled: 0.6 },
      [['cpu_throttled', 'it is held back: of the time in which it wanted CPU it had used up its 0.25 cores in 60 %']],
    ],
  ])('%s', (_, more, said) => {
    const notices = noticesOf({ ...limited, ...more }, now);
    expect(notices.map(({ code }) => code)).toEqual(said.map(([code]) => code));
    for (const [i, [, words]] of said.entries()) expect(notices[i]?.text).toContain(words);
  });
});

describe.each(databaseKinds)('limits as they are seen (%s)', (database) => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp({ database, app: { vitals: { everyS: 0.2, lookEveryMs: 50 } } });
  });
  afterAll(() => app.stop());

  const statusOf = async ({ id }: { id: string }) =>
    (await app.get(`/api/v1/users/${id}/deploy/status`, app.adminKey)).json.deployments[0];
  const explain = async ({ id }: { id: string }) => (await app.get(`/api/v1/users/${id}/agents/a/explain`, app.adminKey)).json;
  const say = ({ id }: { id: string }) =>
    app.post(`/api/v1/users/${id}/agents/a/chat`, app.adminKey, { messages: [{ role: 'user', content: 'hi' }] });
  const codes = (list: { code: string }[]) => list.map(({ code }) => code);
  const instanceOf = (deploymentId: string) =>
    [...app.engine.instances.values()].find(({ spec }) => spec.deploymentId === deploymentId)!;
  const volumeOf = (deploymentId: string) =>
    [...app.engine.volumes.values()].find((volume) => volume.deploymentId === deploymentId)!;
  async function agent(tier = 'free') {
    const user = await app.user(undefined, tier);
    const { deploymentId } = await app.agent(user, 'a');
    await app.ready(user);
    return { user, deploymentId };
  }

  test('a process that is killed for want of memory shows, though the container goes on', async () => {
    const { user, deploymentId } = await agent();
    app.engine.killChild(instanceOf(deploymentId).spec.name);
    await until(async () => (await statusOf(user)).pressure.oom_kills === 1, 'it to be counted');
    const status = await statusOf(user);
    expect(status).toMatchObject({ state: 'ready', notices: [{ code: 'process_out_of_memory' }] });
    expect(status.notices[0].text).toContain('256 MiB');
    expect(await explain(user)).toMatchObject({
      verdict: 'ok',
      reasons: [{ code: 'process_out_of_memory' }],
      actual: { instance: { child_oom_killed: true }, pressure: { oom_kills: 1, last_oom_at: expect.any(String) } },
      you_can: [expect.stringContaining('more memory')],
    });
  });

  test('CPU that is held back shows as the share of the time in which it was wanted', async () => {
    const { user, deploymentId } = await agent();
    instanceOf(deploymentId).cpuPeriods = { all: 1_000, throttled: 400 };
    await until(async () => (await statusOf(user)).pressure.cpu_throttled_percent === 40, 'it to be measured');
    const { cpuPeriods } = instanceOf(deploymentId);
    // What is measured next is what was since.
    await until(async () => {
      cpuPeriods.all += 100;
      cpuPeriods.throttled += 90;
      const { reasons } = await explain(user);
      return codes(reasons).includes('cpu_throttled') && reasons[0].text.includes('90 %');
    }, 'it to be explained');
  });

  test('a disk with a bound of its own shows when it is full, and turns go on', async () => {
    app.engine.bound = 'hard';
    const { user, deploymentId } = await agent();
    app.engine.bound = 'soft';
    const volume = volumeOf(deploymentId);
    expect(volume.sizeMib).toBe(1024);
    volume.usedBytes = 1024 * MIB;
    await until(async () => (await statusOf(user)).disk.full, 'it to be seen');
    expect(await statusOf(user)).toMatchObject({
      state: 'ready',
      disk: { bound: 'hard', limit_mib: 1024, used_mib: 1024, full: true },
      notices: [{ code: 'disk_full' }],
    });
    const { generation } = (await statusOf(user)).instance;
    expect((await say(user)).status).toBe(200);
    expect((await statusOf(user)).instance.generation).toBe(generation);
    const { reasons, events } = await explain(user);
    expect(codes(reasons)).toEqual(['disk_full']);
    expect(reasons[0].text).toContain('1024 of 1024 MiB');
    expect(events.filter(({ type }: { type: string }) => type === 'deployment.disk_full')).toHaveLength(1);
    volume.usedBytes = 0;
    await until(async () => !(await statusOf(user)).disk.full, 'it to be seen that there is room');
    expect((await statusOf(user)).notices).toEqual([]);
  });

  test('a disk grows with the tier, never shrinks, and one that there was keeps what it had', async () => {
    app.engine.bound = 'hard';
    const { user, deploymentId } = await agent('free');
    app.engine.bound = 'soft';
    const old = await agent('free');
    const be = async (one: typeof old, tier: string) => {
      expect((await app.call('PUT', `/api/v1/users/${one.user.id}/tier`, { key: app.adminKey, body: { tier } })).status).toBe(
        200,
      );
      await app.ready(one.user);
    };
    await be({ user, deploymentId }, 'pro');
    await be(old, 'pro');
    expect(volumeOf(deploymentId).sizeMib).toBe(10_240);
    expect((await statusOf(user)).disk).toMatchObject({ bound: 'hard', limit_mib: 10_240 });
    expect(volumeOf(old.deploymentId).sizeMib).toBeUndefined();
    expect((await statusOf(old.user)).disk).toMatchObject({ bound: 'soft', limit_mib: 10_240 });
    await be({ user, deploymentId }, 'free');
    expect((await statusOf(user)).disk).toMatchObject({ limit_mib: 10_240 });
  });

  test('one that holds more than its soft bound is ended, takes no turn, and does again once there is room', async () => {
    const { user } = await agent();
    const before = (await statusOf(user)).instance.generation;
    let usedBytes = 1025 * MIB;
    app.gateways.files = (request: Http2ServerRequest, response: Http2ServerResponse) => {
      expect(request.url).toMatch(/\/disk$/);
      response.end(JSON.stringify({ files: 1, bytes: request.url.includes('/agents/a/') ? usedBytes : 0, complete: true }));
    };
    try {
      await until(async () => {
        const { instance, state } = await statusOf(user);
        return instance?.generation === before + 1 && state === 'ready';
      }, 'it to be ended and up again for its files');
      expect(await statusOf(user)).toMatchObject({
        disk: { bound: 'soft', used_mib: 1025, limit_mib: 1024, full: true },
        notices: [{ code: 'disk_over_bound' }],
      });
      const refused = await say(user);
      expect(refused.status).toBe(507);
      expect(refused.json).toMatchObject({ code: 'insufficient_storage', error: expect.stringContaining('delete files') });
      expect(await explain(user)).toMatchObject({ verdict: 'refusing', reasons: [{ code: 'disk_over_bound' }] });
      expect((await app.get(`/api/v1/users/${user.id}/agents/a/files/usage`, app.adminKey)).status).not.toBe(507);
      usedBytes = 10 * MIB;
      await until(async () => (await say(user)).status === 200, 'turns to run again');
      const status = await statusOf(user);
      expect(status).toMatchObject({ disk: { full: false }, notices: [] });
      expect(status.instance.generation).toBe(before + 1);
    } finally {
      app.gateways.files = undefined;
    }
  });
});
