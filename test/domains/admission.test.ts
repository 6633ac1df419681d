import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import {
  type AdmissionLimits,
  type HostRoom,
  missingMib,
  type NotYet,
  startsMore,
  type Taken,
  toStop,
  turnFor,
  whyNotYet,
} from '../../src/domains/deployments/admission-rules.js';
import { startApp, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';
import { until } from '../support/until.js';

describe('whether one more may start', () => {
  const host: HostRoom = { memoryMib: 1_000, availableMib: 500, diskFreeMib: 10_000 };
  const limits: AdmissionLimits = { reserveMib: 200, overcommit: 2, startsAtOnce: 4, diskReserveMib: 512 };
  const taken: Taken = { committedMib: 1_000, starting: 0, ownStarting: 0 };
  test.each<[string, number, Partial<Taken>, Partial<HostRoom>, NotYet | undefined]>([
    ['there is room', 256, {}, {}, undefined],
    ['all may be promised', 256, { committedMib: 1_344 }, {}, undefined],
    ['and nothing beyond it', 256, { committedMib: 1_345 }, {}, 'memory'],
    ['one that is large counts a quarter', 100_000, { committedMib: 1_200 }, {}, undefined],
    ['promised, but in fact used up', 256, {}, { availableMib: 199 }, 'memory'],
    ['as many as may be are starting', 256, { starting: 4 }, {}, 'starts'],
    ["half of those that may start are its user's", 256, { starting: 2, ownStarting: 2 }, {}, 'share'],
    ['or others have begun what is left', 256, { starting: 3, ownStarting: 1 }, {}, 'share'],
    ['its user has as many as may still start, less one', 256, { starting: 2, ownStarting: 1 }, {}, undefined],
    ['the disk is nearly full', 256, {}, { diskFreeMib: 511 }, 'disk'],
    ['the disk cannot be seen', 256, {}, { diskFreeMib: undefined }, undefined],
    [
      'nothing runs: one may always, on a host however small',
      4_096,
      { committedMib: 0 },
      { availableMib: 10, memoryMib: 300 },
      undefined,
    ],
  ])('%s', (_, wantMib, more, has, why) =>
    expect(whyNotYet(wantMib, { ...taken, ...more }, { ...host, ...has }, limits)).toBe(why),
  );

  test('what is missing is what has to be given back', () => {
    expect(missingMib(256, { ...taken, committedMib: 1_500 }, host, limits)).toBe(156);
    expect(missingMib(256, { ...taken, committedMib: 0 }, host, limits)).toBe(0);
  });

  test.each<[number, number[], number[]]>([
    [100, [256, 256], [256]],
    [300, [256, 256], [256, 256]],
    [600, [256, 256], []],
    [0, [256], []],
  ])('%i MiB out of %j: %j are stopped', (missing, rooms, stopped) => {
    const candidates = rooms.map((roomMib) => ({ roomMib }));
    expect(toStop(missing, candidates).map(({ roomMib }) => roomMib)).toEqual(stopped);
  });
});

test.each<[number, number[]]>([
  [1, [1, 0]],
  [3, [2, 1, 0]],
  [8, [4, 2, 1, 1, 0]],
])('where %i may start at once, users who start all they may get %j of them, one after the other', (startsAtOnce, shares) => {
  let starting = 0;
  const got = shares.map(() => {
    let ownStarting = 0;
    for (; startsMore({ starting, ownStarting }, { startsAtOnce }); starting++) ownStarting++;
    return ownStarting;
  });
  expect(got).toEqual(shares);
});

describe('users take turns', () => {
  /** Serves one after each arrival in `times`, as the queue does: by turn, then by who came first. */
  function order(arrivals: string[], served = 0): string[] {
    const waiting: { user: string; turn: number; at: number }[] = [];
    const done: string[] = [];
    const serve = () => {
      waiting.sort((a, b) => a.turn - b.turn || a.at - b.at);
      const next = waiting.shift();
      if (next) done.push(next.user);
    };
    for (const [at, user] of arrivals.entries()) {
      const turns = waiting.filter((one) => one.user === user).map(({ turn }) => turn);
      const first = waiting.length === 0 ? undefined : Math.min(...waiting.map(({ turn }) => turn));
      waiting.push({ user, at, turn: turnFor(turns.length === 0 ? undefined : Math.max(...turns), first) });
      if (at < served) serve();
    }
    while (waiting.length > 0) serve();
    return done;
  }
  test.each<[string, string, string]>([
    ['one user in order', 'aaa', 'aaa'],
    ['who comes after many stands behind one of them', 'aaaaaab', 'abaaaaa'],
    ['several', 'aaaabbbc', 'abcababa'],
    ['those who come in turns anyhow', 'ababab', 'ababab'],
  ])('%s', (_, arrivals, served) => expect(order(Array.from(arrivals)).join('')).toBe(served));

  test('nobody waits for ever: whoever comes again and again is not before one who has waited', () => {
    // `b` waits with two while `a` comes a hundred times, each time after one was served.
    const served = order(Array.from(`bb${'a'.repeat(100)}`), 100).join('');
    expect(served).toHaveLength(102);
    expect(served.lastIndexOf('b')).toBeLessThan(4);
  });
});

describe.each(databaseKinds)('a host that is full (%s)', (database) => {
  let app: TestApp;
  let beside: TestApp | undefined;
  let host: HostRoom;
  // Four containers of 256 MiB.
  const room = (more: Partial<HostRoom> = {}): HostRoom => ({
    memoryMib: 1_024,
    availableMib: 1_024,
    diskFreeMib: 10_000,
    ...more,
  });
  const env = { MEMORY_RESERVE_MIB: '0', MEMORY_OVERCOMMIT: '100', STARTS_AT_ONCE: '3' };

  beforeAll(async () => {
    host = room();
    const parts = { host: async () => host, rest: { everyMs: 50, pausedS: 600 } };
    app = await startApp({ database, env, app: parts });
    if (database === 'postgres') beside = await startApp({ beside: app, gateways: app.gateways, env, app: parts });
    await sql`update tiers set idle_timeout_s = null where name = 'free'`.execute(app.database.db);
    await sql`update tiers set idle_timeout_s = 1 where name = 'pro'`.execute(app.database.db);
  });
  afterAll(async () => {
    await beside?.stop();
    await app.stop();
  });

  type User = Awaited<ReturnType<TestApp['user']>>;
  const statusOf = async ({ id }: User) => (await app.get(`/api/v1/users/${id}/deploy/status`, app.adminKey)).json.deployments;
  const positions = async (user: User) =>
    (await statusOf(user)).map((one: { queue: { position: number } | null }) => one.queue?.position ?? 0);
  const up = () => [...app.engine.instances.values()].filter(({ observed }) => ['running', 'paused'].includes(observed.state));
  const dedicated = async (user: User, name: string) => app.agent(user, name, { isolation: 'dedicated' });
  const remove = async (user: User, name = 'a') =>
    expect((await app.call('DELETE', `/api/v1/users/${user.id}/agents/${name}`, { key: app.adminKey })).status).toBeLessThan(300);
  async function full(tier = 'free'): Promise<User[]> {
    const users = await Promise.all(Array.from({ length: 4 }, () => app.user(undefined, tier)));
    for (const user of users) await app.agent(user, 'a');
    for (const user of users) await app.ready(user);
    return users;
  }
  // Each begins with an empty host, also the second try of one that failed.
  afterEach(async () => {
    host = room();
    const { data } = (await app.get('/api/v1/users?limit=100', app.adminKey)).json;
    for (const { id } of data) await app.call('DELETE', `/api/v1/users/${id}`, { key: app.adminKey });
    await until(() => app.engine.instances.size === 0, 'everything to be gone');
  });

  test('says who waits at which position, lets users take turns, and goes on as soon as there is room', async () => {
    const running = await full();
    const [many, one] = [await app.user(undefined, 'free'), await app.user(undefined, 'free')];
    for (const name of ['a', 'b', 'c']) await dedicated(many, name);
    await until(async () => (await positions(many)).every((position: number) => position > 0), 'all to wait');
    await app.agent(one, 'a');
    await until(async () => (await positions(one))[0] > 0, 'it to wait');
    expect([await positions(many), await positions(one)]).toEqual([[1, 3, 4], [2]]);
    const [waiting] = await statusOf(one);
    expect(waiting).toMatchObject({ state: 'deploying', stage: 'queued', instance: null, queue: { since: expect.any(String) } });
    expect(waiting.reason).toContain('queued, position 2');
    expect((await app.get(`/api/v1/users/${one.id}/deploy/status`, app.adminKey)).json).toMatchObject({
      settled: false,
      reason: expect.stringContaining('queued, position 2'),
    });
    const why = (await app.get(`/api/v1/users/${one.id}/agents/a/explain`, app.adminKey)).json;
    expect(why).toMatchObject({ verdict: 'waiting', reasons: [{ code: 'queued', text: expect.stringContaining('position 2') }] });
    expect(up()).toHaveLength(4);

    await remove(running[0]!);
    await until(async () => (await positions(many)).toString() === '0,2,3', 'the first to have its turn');
    await remove(running[1]!);
    await app.ready(one);
    expect(await positions(many)).toEqual([0, 1, 2]);
    // What is not wished any more waits for nothing.
    await remove(many, 'b');
    await until(async () => (await positions(many)).toString() === '0,1', 'it to have left the queue');
    await remove(running[2]!);
    await app.ready(many);
  });

  test('stops what is paused for those who wait, and what is woken again waits as they do', async () => {
    const idle = await full('pro');
    await until(async () => (await statusOf(idle[0]!))[0].rest === 'paused', 'it to be paused');
    for (const user of idle) await until(async () => (await statusOf(user))[0].state === 'asleep', 'all to be paused');
    const comers = await Promise.all([0, 1].map(() => app.user(undefined, 'free')));
    for (const user of comers) await app.agent(user, 'a');
    for (const user of comers) await app.ready(user);
    expect(up()).toHaveLength(4);
    // One whose gateway is slow to say that it does nothing is left for a while, and another one stopped.
    const rests = async () => (await Promise.all(idle.map(async (user) => (await statusOf(user))[0].rest))).toSorted().join();
    await until(async () => (await rests()) === 'paused,paused,stopped,stopped', 'two to be stopped, and two not');
    // One that is paused goes on at once; one that was stopped has another one stopped.
    const say = ({ id }: User) =>
      app.post(`/api/v1/users/${id}/agents/a/chat`, app.adminKey, { messages: [{ role: 'user', content: 'hi' }] });
    for (const user of idle) expect((await say(user)).status).toBe(200);
    expect(up().length).toBeLessThanOrEqual(4);
  });

  test('starts nothing while its disk is nearly full', async () => {
    host = room({ diskFreeMib: 100 });
    const user = await app.user(undefined, 'free');
    await app.agent(user, 'a');
    await until(async () => (await positions(user))[0] === 1, 'it to wait');
    expect((await statusOf(user))[0].reason).toContain('disk of the host is nearly full');
    host = room();
    await app.ready(user);
  });

  /** Waits until it is decided whether the user's agent starts or waits for its turn: its status then. */
  async function decided(user: User) {
    await until(
      async () => (await statusOf(user)).every((one: { state: string; queue: unknown }) => one.queue ?? one.state === 'ready'),
      'it to start',
    );
    return (await statusOf(user))[0];
  }
  /** Its containers go on, and what runs in them has no link any more. */
  function loseLinks({ id }: User): void {
    for (const { spec } of app.engine.instances.values()) if (spec.userId === id) app.gateways.end(spec);
  }

  test('holds nobody up for instances that were ready and keep losing their links', async () => {
    host = room({ memoryMib: 100_000, availableMib: 100_000 });
    const [hostile, other] = [await app.user(undefined, 'free'), await app.user(undefined, 'free')];
    for (const name of ['a', 'b', 'c']) await dedicated(hostile, name);
    await app.ready(hostile);
    loseLinks(hostile);
    await until(
      async () => (await statusOf(hostile)).every(({ stage }: { stage: string }) => stage === 'connecting'),
      'them to have lost their links',
    );
    await sql`update deployments set room_at = now() where user_id = ${hostile.id}`.execute(app.database.db);
    await app.agent(other, 'a');
    expect(await decided(other)).toMatchObject({ state: 'ready', queue: null });
  });

  test('leaves starts to others, however many of one user never get ready', async () => {
    host = room({ memoryMib: 100_000, availableMib: 100_000 });
    const [greedy, other] = [await app.user(undefined, 'free'), await app.user(undefined, 'free')];
    app.gateways.silent = true;
    try {
      for (const name of ['a', 'b', 'c']) await dedicated(greedy, name);
      const stages = async () => (await statusOf(greedy)).map(({ stage }: { stage: string }) => stage).toSorted();
      await until(
        async () => (await stages()).toString() === 'connecting,connecting,queued',
        () => 'one to wait',
      );
      loseLinks(greedy);
    } finally {
      app.gateways.silent = false;
    }
    const waiting = (await statusOf(greedy)).find(({ stage }: { stage: string }) => stage === 'queued');
    expect(waiting.reason).toContain('so many containers of its user are starting');
    await app.agent(other, 'a');
    expect(await decided(other)).toMatchObject({ state: 'ready', queue: null });
    expect(await positions(greedy)).toEqual([0, 0, 1]);
    // One of its own that is gone makes place for it.
    await remove(greedy, 'a');
    await until(async () => (await positions(greedy)).toString() === '0,0', 'it to have its turn');
  });

  test('is never overfilled, however many come at once to however many processes, and serves all in the end', async () => {
    let most = 0;
    const users = await Promise.all(Array.from({ length: 10 }, () => app.user(undefined, 'free')));
    const entries = [app, beside ?? app];
    await Promise.all(
      users.map((user, i) =>
        entries[i % 2]!.post(`/api/v1/users/${user.id}/agents`, app.adminKey, { name: 'a' }).then(({ status }) =>
          expect(status).toBe(202),
        ),
      ),
    );
    const served = new Set<string>();
    await until(
      async () => {
        most = Math.max(most, up().length);
        for (const user of users) {
          if (served.has(user.id) || (await statusOf(user))[0]?.state !== 'ready') continue;
          served.add(user.id);
          await remove(user);
        }
        return served.size === users.length;
      },
      () => `all to have been served: ${served.size}`,
      60_000,
    );
    expect(most).toBeGreaterThan(1);
    expect(most).toBeLessThanOrEqual(4);
  });
});
