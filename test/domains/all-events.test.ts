import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openDatabase } from '../../src/db/open.js';
import { createLog } from '../../src/lib/log.js';
import { encodeCursor } from '../../src/lib/page.js';
import { type Answer, startApp, type TestApp } from '../support/app.js';
import { testDatabase } from '../support/database.js';
import { EventReader } from '../support/event-reader.js';
import { happen } from '../support/happen.js';
import { until } from '../support/until.js';

/** Two Berth processes on one Postgres. */
let here: TestApp;
let there: TestApp;
let closeOther: () => Promise<void>;

beforeAll(async () => {
  const database = await testDatabase('postgres');
  const other = await openDatabase({ databaseUrl: database.url, dataDir: '', log: createLog('silent') });
  closeOther = () => other.close();
  const app = { events: { feed: { pollMs: 3_600_000, readersAtMost: 5 }, slowMs: 300 } };
  here = await startApp({ database, app });
  there = await startApp({ database: { ...other, url: database.url }, beside: here, app });
});
afterAll(async () => {
  await there.stop();
  await here.stop();
  await closeOther();
});

const db = () => here.database.db;
const all = async (query: string, key = here.adminKey, headers?: Record<string, string>) =>
  here.get(`/api/v1/events?${query}`, key, headers);
/** Other tests' databases are of the same server, whose transactions an event may have to wait for. */
const listed = (query: string, count: number) =>
  until(async () => (await all(query)).json.data.length === count, `${count} events of ${query}`);
const stream = (app: TestApp, query = '', headers: Record<string, string> = {}, key = app.adminKey) =>
  EventReader.open(`${app.url}/api/v1/events?stream=true&type=test.*${query}`, { method: 'GET', key, headers });
const numbers = (reader: EventReader): number[] =>
  reader.events.filter(({ event }) => event === 'event').map(({ data }) => data.data.n);

describe('the list of all events', () => {
  test('shows an admin what happened to all users, each event once, whatever the page', async () => {
    const [one, two] = [await here.user(), await here.user()];
    const agent = await here.agent(two, 'ada');
    const about = { agent_id: agent.id };
    for (let n = 0; n < 4; n++) await happen(db(), n % 2 === 0 ? one.id : two.id, 'test.listed', n === 3 ? about : {});
    await listed('type=test.listed', 4);
    const seen: { user_id: string; seq: number; id: string }[] = [];
    let path: string | undefined = 'type=test.listed&limit=3';
    while (path !== undefined) {
      const answer: Answer = await all(path);
      const { data, pagination, gap } = answer.json;
      seen.push(...data);
      expect(gap).toBeNull();
      path = pagination.next_cursor ? `type=test.listed&limit=3&cursor=${pagination.next_cursor}` : undefined;
    }
    expect(seen.map((event) => event.user_id)).toEqual([one.id, two.id, one.id, two.id]);
    const own = (await here.get(`/api/v1/users/${two.id}/events?type=test.listed`, two.key)).json.data;
    const { cursor: _, ...same } = own[1];
    expect(seen[3]).toMatchObject({ ...same, user_id: two.id, cursor: expect.any(String) });

    const users = async (query: string) =>
      (await all(`type=test.listed&${query}`)).json.data.map((event: { seq: number }) => event.seq);
    expect(await users(`user=${two.name}`)).toEqual(own.map((event: { seq: number }) => event.seq));
    expect(await users(`agent=${agent.id}`)).toEqual([own[1].seq]);
    expect(await users(`agent=ada&user=${two.id}&order=desc`)).toEqual([own[1].seq]);
    for (const [query, status] of [
      ['agent=ada', 400],
      ['user=nobody', 404],
      [`user=${one.id}&agent=ada`, 404],
      [`cursor=${own[0].cursor}`, 400],
      [`cursor=${encodeCursor(`a${'9'.repeat(20)}.1.${one.id}`)}`, 400],
    ])
      expect([query, (await all(String(query))).status]).toEqual([query, status]);
  });

  test('shows others what is theirs, and an admin that acts for a user what is of that one', async () => {
    const [user, stranger] = [await here.user(), await here.user()];
    const [ada, bob] = [await here.agent(user, 'ada'), await here.agent(user, 'bob')];
    // Nothing more happens to them then: the pages that are compared are asked for one after the other.
    await here.ready(user);
    const path = `/api/v1/users/${user.id}/events?limit=3`;
    const own = (await here.get(path, user.key)).json;
    expect((await all('limit=3', user.key)).json).toEqual(own);
    expect((await all('limit=3', here.adminKey, { 'x-workspace-id': user.name })).json).toEqual(own);
    expect((await all(`user=${stranger.id}`, user.key)).json.error).toBe('user not found');
    expect((await all('', user.key, { 'x-workspace-id': stranger.id })).json.error).toBe('user not found');
    const agents = (await all('', ada.key)).json.data.map((event: { agent_id: string }) => event.agent_id);
    expect(new Set(agents)).toEqual(new Set([ada.id]));
    expect((await all(`agent=${bob.id}`, ada.key)).json.error).toBe('agent not found');
  });

  test('waits for a transaction that began before, so that nothing comes in between later', async () => {
    const [early, late] = [await here.user(), await here.user()];
    const start = (await all('order=desc&limit=1')).json.data[0].cursor;
    const told = async () =>
      (await all(`type=test.waits&cursor=${start}`)).json.data.map((event: { user_id: string }) => event.user_id);
    const reader = await stream(there);
    await reader.first('ready');
    await here.database.db.transaction().execute(async (trx) => {
      await sql`select pg_current_xact_id()`.execute(trx);
      await happen(there.database.db, late.id, 'test.waits', { n: 2 });
      expect(await told()).toEqual([]);
      expect(numbers(reader)).toEqual([]);
      await sql`insert into event_counters values (${early.id}, 100) on conflict (user_id) do update set last_seq = 100`.execute(
        trx,
      );
      await sql`insert into events (user_id, seq, id, type, actor, payload) values (${early.id}, 100, 'evt_early', 'test.waits', 'test', '{"n": 1}')`.execute(
        trx,
      );
    });
    await listed(`type=test.waits&cursor=${start}`, 2);
    expect(await told()).toEqual([early.id, late.id]);
    await reader.until(() => numbers(reader).length === 2, 'both');
    expect(numbers(reader)).toEqual([1, 2]);
    reader.hangUp();
  });
});

describe('the stream of all events', () => {
  test('brings those of all users, of all processes, and goes on exactly once', async () => {
    const users = [await here.user(), await here.user()];
    const readers = [await stream(here), await stream(there)];
    await Promise.all(readers.map((reader) => reader.first('ready')));
    const count = 600;
    const say = (n: number) => happen((n % 2 === 0 ? here : there).database.db, users[n % 2]!.id, 'test.told', { n });
    for (let n = 0; n < count; n += 20) await Promise.all(Array.from({ length: 20 }, (_, i) => say(n + i)));
    for (const reader of readers) {
      await reader.until(() => numbers(reader).length === count, 'all of them');
      expect(numbers(reader).toSorted((a, b) => a - b)).toEqual(Array.from({ length: count }, (_, n) => n));
      reader.hangUp();
    }
    const whole = numbers(readers[0]!);
    expect(numbers(readers[1]!)).toEqual(whole);
    const listed = (await all(`type=test.told&limit=200`)).json.data.map((event: { data: { n: number } }) => event.data.n);
    expect(listed).toEqual(whole.slice(0, 200));
    const events = readers[0]!.events.filter(({ event }) => event === 'event');
    for (const at of [0, 1, 199, 200, 450, count - 2]) {
      const rest = await stream(there, '', { 'last-event-id': events[at]!.data.cursor });
      await rest.until(() => numbers(rest).length === count - at - 1, 'the rest');
      expect(numbers(rest)).toEqual(whole.slice(at + 1));
      rest.hangUp();
    }
  }, 60_000);

  test('filters, is for admins, and ends with the key', async () => {
    const [one, two] = [await here.user(), await here.user()];
    const made = (await here.post('/api/v1/admin/keys', here.adminKey, {})).json;
    const reader = await stream(here, `&user=${two.name}`, {}, made.api_key);
    await reader.first('ready');
    await happen(db(), one.id, 'test.filtered', { n: 1 });
    await happen(db(), two.id, 'other.filtered', { n: 2 });
    await happen(db(), two.id, 'test.filtered', { n: 3 });
    await reader.until(() => numbers(reader).length > 0, 'an event');
    expect(numbers(reader)).toEqual([3]);
    expect((await here.call('DELETE', `/api/v1/admin/keys/${made.id}`, { key: here.adminKey })).status).toBe(204);
    await reader.end();
    expect(reader.events.at(-1)).toMatchObject({ event: 'error', data: { code: 'unauthorized' } });
  });

  test('says that something is missing where a cursor is too old, and where it is ahead of all', async () => {
    const user = await here.user();
    for (let n = 0; n < 4; n++) await happen(db(), user.id, 'test.aged', { n });
    await listed('type=test.aged', 4);
    const { data } = (await all('type=test.aged')).json;
    await sql`update events set at = now() - interval '40 days' where user_id = ${user.id} and type = 'test.aged' and payload->>'n' in ('1', '2')`.execute(
      db(),
    );
    const app = await startApp({ beside: here, env: { EVENTS_RETENTION_DAYS: '39' } });
    try {
      await until(async () => (await all('type=test.aged')).json.data.length === 2, 'the old ones to be forgotten');
    } finally {
      await app.leave();
    }
    const page = (await all(`type=test.aged&cursor=${data[0].cursor}`)).json;
    expect(page).toMatchObject({ gap: { reason: 'expired' }, data: [{ data: { n: 3 } }] });
    expect((await all(`type=test.aged&cursor=${data[3].cursor}`)).json).toMatchObject({ gap: null, data: [] });
    const reader = await stream(here, `&cursor=${data[0].cursor}`);
    await reader.until(() => numbers(reader).includes(3), 'what is kept');
    expect(reader.names.slice(0, 3)).toEqual(['ready', 'gap', 'event']);
    reader.hangUp();
    const ahead = await stream(here, `&cursor=${encodeCursor('a999999999999.1.')}`);
    expect(await ahead.first('gap')).toMatchObject({ data: { reason: 'unknown' } });
    await happen(db(), user.id, 'test.aged', { n: 9 });
    await ahead.until(() => numbers(ahead).length > 0, 'what happens after that');
    expect(numbers(ahead)).toEqual([9]);
    ahead.hangUp();
  });

  test('refuses more than are allowed, and lets go of those that went', async () => {
    const readers = await Promise.all(Array.from({ length: 5 }, () => stream(here)));
    await Promise.all(readers.map((reader) => reader.first('ready')));
    const refused = await stream(here);
    await refused.end();
    expect(refused.events.at(-1)).toMatchObject({ event: 'error', data: { code: 'rate_limited' } });
    for (const reader of readers) reader.hangUp();
    await until(async () => {
      const again = await stream(here);
      await again.until(() => again.events.length > 0, 'an answer');
      again.hangUp();
      return again.names[0] === 'ready';
    }, 'room for another');
  });
});
