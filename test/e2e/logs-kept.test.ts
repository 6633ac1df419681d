import { execFile } from 'node:child_process';
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { EventReader } from '../support/event-reader.js';
import { until } from '../support/until.js';

type User = Awaited<ReturnType<TestApp['user']>>;
interface Line {
  message: string;
  level: string | null;
  agent: string | null;
}

const run = promisify(execFile);
/** Small segments, so that a few lines make several. */
const LIMITS = { segmentBytes: 2_000, retryMaxMs: 500 };

const follow = (app: TestApp, user: User, query = '', lastEventId?: string) =>
  EventReader.open(`${app.url}/api/v1/logs?follow=true${query}`, {
    method: 'GET',
    key: user.key,
    ...(lastEventId === undefined ? {} : { headers: { 'last-event-id': lastEventId } }),
  });
const heard = (reader: EventReader) =>
  reader.events.filter(({ event }) => event === 'log').map(({ data }) => data.message as string);
const lastId = (reader: EventReader) => [...reader.text.matchAll(/^id: (.+)$/gm)].at(-1)?.[1];

const logs = async (app: TestApp, user: User, query = '') => {
  const answer = await app.get(`/api/v1/logs?tail=5000${query}`, user.key);
  expect([answer.status, answer.status === 200 ? '' : answer.text]).toEqual([200, '']);
  return answer.json as { data: Line[]; gaps: object[]; waiting: string | null; newest_cursor: string };
};
const messages = async (app: TestApp, user: User, query = '') =>
  (await logs(app, user, query)).data.map(({ message }) => message);
const kept = (app: TestApp, user: User, message: string) =>
  until(async () => (await messages(app, user)).includes(message), `${message} to be kept`);

/** A user with an agent; `print` is what its container prints, whichever of the processes started it. */
async function tenant(app: TestApp, beside: TestApp[] = []) {
  const user = await app.user();
  const agent = await app.agent(user, 'a');
  await app.ready(user);
  const instance = () =>
    [...app.engine.instances.values()].find(({ spec, observed }) => spec.userId === user.id && observed.state === 'running')!;
  const print = (text: string) => {
    const programs = [app, ...beside].map(({ gateways }) => gateways.programs.get(instance().spec.instanceId));
    programs.find((program) => program !== undefined)!.log('stdout', text);
  };
  await kept(app, user, 'started');
  return { user, agent, instance, print };
}

const filesOf = async (app: TestApp, user: User) => (await readdir(join(app.config.logDir, user.id)).catch(() => [])).toSorted();
const rowsOf = async (app: TestApp, user: User) =>
  (
    await sql<{ number: number }>`select number from log_segments where user_id = ${user.id} order by number`.execute(
      app.database.db,
    )
  ).rows.map(({ number }) => `${String(number).padStart(10, '0')}.log`);

describe('logs that stay', () => {
  let app: TestApp;
  beforeAll(async () => void (app = await startApp({ app: { logs: LIMITS } })));
  afterAll(() => app.stop());

  test('are there when the container is gone: by text, by level, by agent, page by page, and in what explains its end', async () => {
    const { user, instance, print } = await tenant(app);
    for (let n = 0; n < 100; n++) print(JSON.stringify({ level: n % 10 ? 'info' : 'error', msg: `step ${n}`, agent: 'a' }));
    print('last words');
    // At once: what was printed before it went is read before it is gone.
    app.engine.die(instance().spec.name, { exitCode: 3 });
    await kept(app, user, 'last words');
    await app.ready(user);
    await until(async () => (await messages(app, user)).filter((text) => text === 'started').length === 2, 'the next container');
    expect(await messages(app, user, '&q=STEP%201')).toEqual([
      'step 1',
      ...Array.from({ length: 10 }, (_, n) => `step ${10 + n}`),
    ]);
    expect(await messages(app, user, '&level=error,warn&agent=a')).toHaveLength(10);
    expect((await filesOf(app, user)).length).toBeGreaterThan(1);
    const pages: string[] = [];
    for (let cursor = ''; ;) {
      const { data, pagination } = (await app.get(`/api/v1/agents/a/logs?tail=7${cursor}`, user.key)).json;
      pages.unshift(...data.map(({ message }: Line) => message));
      if (!pagination.has_more) break;
      cursor = `&cursor=${pagination.next_cursor}`;
    }
    expect(pages).toEqual(Array.from({ length: 100 }, (_, n) => `step ${n}`));
    const explained = (await app.get('/api/v1/agents/a/explain', user.key)).json;
    expect(explained.log.map(({ message }: Line) => message)).toContain('last words');
  }, 60_000);

  test('are an agent’s own by its own key, and nobody else’s', async () => {
    const { user, agent, print } = await tenant(app);
    print(JSON.stringify({ level: 'info', msg: 'mine', agent: 'a' }));
    print('of nobody');
    await kept(app, user, 'of nobody');
    expect((await app.get('/api/v1/agents/a/logs', agent.key)).json.data.map(({ message }: Line) => message)).toEqual(['mine']);
    const other = await app.user();
    expect((await app.get(`/api/v1/users/${user.id}/logs?q=mine`, other.key)).status).toBe(404);
    const { newest_cursor } = await logs(app, user);
    expect(await messages(app, other, `&cursor=${newest_cursor}`)).toEqual([]);
    expect((await app.get('/api/v1/logs?cursor=abc', user.key)).json.fields).toMatchObject([{ path: 'cursor' }]);
    expect((await app.get('/api/v1/logs?follow=true&cursor=b2sxLjI', user.key)).status).toBe(400);
  });

  test('of hostile lines are what they are: no forged agent, no forged time, no second line, no terminal', async () => {
    const { user, print } = await tenant(app);
    const forged = JSON.stringify({ time: '1999-01-01T00:00:00Z', level: 'fatal', agent: 'other', msg: 'forged' });
    const lines = [
      forged,
      JSON.stringify({ msg: 'one\n2026-01-01T00:00:00Z FATAL two', level: 'info' }),
      '\u001b[2J\u001b]0;title\u0007 cleared',
      'nul \u0000 and \ufffd\ufffd half',
      '"]\n{"gap":{"lines":1}}',
      'm'.repeat(1_000_000),
    ];
    for (const text of lines) print(text);
    print('the end');
    await kept(app, user, 'the end');
    const { data, gaps } = await logs(app, user);
    expect(gaps).toEqual([]);
    expect(data.slice(1).map(({ message }) => message.slice(0, 40))).toEqual([
      forged.slice(0, 40),
      'one\n2026-01-01T00:00:00Z FATAL two',
      ...lines.slice(2, 5),
      'm'.repeat(40),
      'the end',
    ]);
    expect(data[1]).toMatchObject({ agent: null, level: 'fatal' });
    expect(data.every((line) => (line as unknown as { time: string }).time > '2020')).toBe(true);
    const text = (await app.get('/api/v1/logs?format=text', user.key)).text;
    expect(text.trimEnd().split('\n')).toHaveLength(data.length);
    // oxlint-disable-next-line no-control-regex -- what must not be there
    expect(text).not.toMatch(/[\u0000-\u0008\u001b]/);
  });

  test('are kept by the tier’s bytes and days, from the moment that these change, and go with their user', async () => {
    const user = await app.user(undefined, 'free');
    await app.agent(user, 'a');
    await app.ready(user);
    await kept(app, user, 'started');
    const instance = [...app.engine.instances.values()].find(({ spec }) => spec.userId === user.id)!;
    const print = (text: string) => void app.gateways.programs.get(instance.spec.instanceId)!.log('stdout', text);
    for (let round = 0; round < 20; round++) {
      print(`round ${round} ${'x'.repeat(16_000)} `.repeat(6));
      await until(async () => (await messages(app, user, `&q=round%20${round}%20`)).length === 1, 'a line to be kept');
    }
    const before = await filesOf(app, user);
    expect(before.length).toBeGreaterThan(10);
    const reader = await follow(app, user, '&tail=1000');
    await reader.until(() => heard(reader).length === 21, 'all lines');
    reader.hangUp();
    await sql`update tiers set log_mib = 0 where name = 'free'`.execute(app.database.db);
    app.database.bus.publish('tier', 'free');
    await until(async () => (await filesOf(app, user)).length === 1, 'the rest to go');
    expect(await rowsOf(app, user)).toEqual(await filesOf(app, user));
    // One that comes back is told that it has missed something.
    const [, first] = [...reader.text.matchAll(/^id: (.+)$/gm)].map((match) => match[1]);
    const back = await follow(app, user, '', first);
    expect((await back.first('gap')).data).toMatchObject({ reason: 'kept no longer', lines: null });
    await back.first('log');
    back.hangUp();
    await sql`update tiers set log_mib = 32, log_days = 0 where name = 'free'`.execute(app.database.db);
    app.database.bus.publish('tier', 'free');
    expect(await messages(app, user)).toEqual([]);
    await sql`update tiers set log_days = 7 where name = 'free'`.execute(app.database.db);
    await app.call('DELETE', `/api/v1/users/${user.id}`, { key: app.adminKey });
    await until(async () => (await app.get(`/api/v1/users/${user.id}`, app.adminKey)).status === 404, 'the user to go');
    expect(await rowsOf(app, user)).toEqual([]);
    expect(await readdir(app.config.logDir)).not.toContain(user.id);
    expect((await app.get('/api/v1/tiers', app.adminKey)).json.data[0].limits).toMatchObject({ log_days: 7, log_mib: 32 });
  }, 60_000);

  test('cost the engine one read of a container, however many follow it', async () => {
    const { user, print } = await tenant(app);
    const reads = app.engine.calls.get('logs');
    const readers = await Promise.all(Array.from({ length: 200 }, () => follow(app, user, '&tail=1')));
    await Promise.all(readers.map((reader) => reader.first('log')));
    readers[0]!.pause();
    for (let n = 0; n < 50; n++) print(`to all ${n}`);
    await Promise.all(readers.slice(1).map((reader) => reader.until(() => heard(reader).length === 51, 'all lines')));
    readers[0]!.resume();
    await readers[0]!.until(() => heard(readers[0]!).length === 51, 'all lines, later');
    expect(new Set(readers.map((reader) => heard(reader).join())).size).toBe(1);
    expect(app.engine.calls.get('logs')).toBe(reads);
    for (const reader of readers) reader.hangUp();
  }, 60_000);
});

test('a Berth that comes back goes on where it stopped: each line once, and what the engine has taken away meanwhile is a gap', async () => {
  const first = await startApp({ app: { logs: LIMITS } });
  const { user, print } = await tenant(first);
  print('one');
  await kept(first, user, 'one');
  const { newest_cursor } = await logs(first, user);
  await first.leave();
  print('two');
  const second = await startApp({ beside: first, app: { logs: LIMITS } });
  const back = await follow(second, user, '', newest_cursor);
  await back.until(() => heard(back).length === 1, 'what was printed meanwhile');
  print('three');
  await back.until(() => heard(back).length === 2, 'what comes');
  expect(heard(back)).toEqual(['two', 'three']);
  expect(await logs(second, user)).toMatchObject({
    gaps: [],
    data: ['started', 'one', 'two', 'three'].map((message) => ({ message })),
  });
  const id = lastId(back);
  await second.leave();
  // The engine keeps 10,000 lines.
  for (let n = 0; n < 10_100; n++) print(`n ${n}`);
  const third = await startApp({ beside: first, app: { logs: LIMITS } });
  const again = await follow(third, user, '', id);
  await again.until(() => heard(again).includes('n 10099'), 'the last line', 60_000);
  expect(again.events[0]).toMatchObject({
    event: 'gap',
    data: { lines: null, reason: expect.stringContaining('by the engine') },
  });
  expect(heard(again)).toEqual(Array.from({ length: 10_000 }, (_, n) => `n ${n + 100}`));
  again.hangUp();
  await third.stop();
  await first.stop();
}, 120_000);

describe('two processes', () => {
  let one: TestApp;
  let two: TestApp;
  beforeAll(async () => {
    one = await startApp({ database: 'postgres', app: { logs: LIMITS } });
    two = await startApp({ beside: one, app: { logs: LIMITS } });
  });
  afterAll(async () => {
    await two.stop();
    await one.stop();
  });

  test('collect a container once; each tells what the other collects, and goes on when the other ends', async () => {
    const { user, print } = await tenant(one, [two]);
    expect(one.engine.calls.get('logs')).toBe(1);
    const readers = [await follow(one, user, '&tail=1'), await follow(two, user, '&tail=1')];
    for (const reader of readers) await reader.first('log');
    print('to both');
    for (const reader of readers) await reader.until(() => heard(reader).includes('to both'), 'the line');
    const owner = await sql<{ lease_owner: string }>`select lease_owner from log_streams where user_id = ${user.id}`.execute(
      one.database.db,
    );
    expect(owner.rows[0]?.lease_owner).toMatch(/^p/);
    // The lease of a process that is gone, without a word.
    await sql`update log_streams set lease_owner = 'pgone', lease_epoch = lease_epoch + 1, lease_until = now() - interval '1 s'
      where user_id = ${user.id}`.execute(one.database.db);
    await until(async () => {
      const { rows } = await sql<{ lease_owner: string }>`select lease_owner from log_streams where user_id = ${user.id}`.execute(
        one.database.db,
      );
      return rows[0]?.lease_owner !== 'pgone';
    }, 'another to take it');
    print('after the change');
    for (const reader of readers) await reader.until(() => heard(reader).includes('after the change'), 'the line');
    for (const reader of readers) {
      expect(heard(reader)).toEqual(['started', 'to both', 'after the change']);
      expect(reader.events.filter(({ event }) => event === 'gap')).toEqual([]);
      reader.hangUp();
    }
  }, 60_000);
});

test('a full disk is said, nothing that was kept is lost, and once there is room all goes on without a line missing', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'bf-'));
  await run('mount', ['-t', 'tmpfs', '-o', 'size=128k', 'tmpfs', dir]);
  const app = await startApp({ env: { LOG_DIR: dir }, app: { logs: LIMITS } });
  try {
    const { user, print } = await tenant(app);
    const reader = await follow(app, user, '&tail=1');
    await reader.first('log');
    await run('sh', ['-c', `head -c 1M /dev/zero > ${dir}/ballast || true`]);
    for (let n = 0; n < 30; n++) print(`line ${n} ${'y'.repeat(1_000)}`);
    expect((await reader.first('waiting')).data.reason).toBe('the disk that logs are written to is full');
    // A small write may find room for a moment.
    await until(async () => (await logs(app, user)).waiting === 'the disk that logs are written to is full', 'it to be said');
    expect(await messages(app, user)).toContain('started');
    await rm(`${dir}/ballast`);
    await reader.until(() => heard(reader).length === 31, 'the lines');
    expect(
      heard(reader)
        .slice(1)
        .map((text) => text.slice(0, 7).trim()),
    ).toEqual(Array.from({ length: 30 }, (_, n) => `line ${n}`));
    expect((await logs(app, user)).gaps).toEqual([]);
    await until(async () => (await logs(app, user)).waiting === null, 'the waiting to end');
    expect((await stat(dir)).isDirectory()).toBe(true);
    reader.hangUp();
  } finally {
    await app.stop();
    await run('umount', [dir]);
    await rm(dir, { recursive: true });
  }
}, 60_000);
