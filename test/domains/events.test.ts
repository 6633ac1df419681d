import { request } from 'node:http';
import { Kysely, PostgresDialect, sql } from 'kysely';
import pg from 'pg';
import { createParser } from 'eventsource-parser';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Schema } from '../../src/db/schema.js';
import { Feed } from '../../src/domains/events/feed.js';
import { LocalBus } from '../../src/events/local-bus.js';
import { createLog } from '../../src/lib/log.js';
import { startApp, type TestApp } from '../support/app.js';
import { openDatabase } from '../../src/db/open.js';
import { testDatabase } from '../support/database.js';
import { EventReader } from '../support/event-reader.js';
import { happen } from '../support/happen.js';
import { until } from '../support/until.js';

type User = Awaited<ReturnType<TestApp['user']>>;

/** Two Berth processes on one Postgres, which hear of each other by its notifications alone. */
let here: TestApp;
let there: TestApp;
/** Commits without a word to anybody, as a process does that dies right after. */
let silent: Kysely<Schema>;
let closeOther: () => Promise<void>;

beforeAll(async () => {
  const database = await testDatabase('postgres');
  const other = await openDatabase({ databaseUrl: database.url, dataDir: '', log: createLog('silent') });
  closeOther = () => other.close();
  const app = { events: { feed: { pollMs: 200, readersAtMost: 60 }, slowMs: 300 } };
  here = await startApp({ database, app });
  there = await startApp({ database: { ...other, url: database.url }, beside: here, app });
  silent = new Kysely<Schema>({
    dialect: new PostgresDialect({ pool: new pg.Pool({ connectionString: database.url, max: 2 }) }),
  });
});
afterAll(async () => {
  await silent.destroy();
  await there.stop();
  await here.stop();
  await closeOther();
});

function stream(app: TestApp, user: User, query = '', headers: Record<string, string> = {}): Promise<EventReader> {
  return EventReader.open(`${app.url}/api/v1/users/${user.id}/events?stream=true${query}`, {
    method: 'GET',
    key: user.key,
    headers,
  });
}

const seqs = (reader: EventReader): number[] =>
  reader.events.filter(({ event }) => event === 'event').map(({ data }) => data.seq);
const db = () => here.database.db;

describe('the list of events', () => {
  test('shows what happened, in pages, by type and by agent', async () => {
    const user = await here.user();
    const ada = await here.agent(user, 'ada');
    await here.agent(user, 'bob');
    await here.ready(user);
    const path = `/api/v1/users/${user.id}/events`;
    const first = (await here.get(`${path}?limit=1`, user.key)).json;
    expect(first.data).toEqual([
      {
        id: expect.stringMatching(/^evt_/),
        seq: 1,
        type: 'user.created',
        at: expect.any(String),
        actor: 'admin:key_environment',
        request_id: expect.stringMatching(/^req_/),
        agent_id: null,
        data: { tier: 'pro' },
        cursor: first.pagination.next_cursor,
      },
    ]);
    expect(first.pagination).toMatchObject({ has_more: true, total: null });
    const rest = (await here.get(`${path}?limit=200&cursor=${first.pagination.next_cursor}`, user.key)).json;
    expect(rest.data.map((event: { seq: number }) => event.seq)).toEqual(rest.data.map((_: unknown, i: number) => i + 2));
    expect(rest).toMatchObject({ pagination: { next_cursor: null, has_more: false }, gap: null });

    const types = async (query: string) =>
      (await here.get(`${path}?${query}`, user.key)).json.data.map((event: { type: string }) => event.type);
    expect(await types('type=agent.created')).toEqual(['agent.created', 'agent.created']);
    expect(new Set(await types('type=agent.*,user.created'))).toEqual(new Set(['agent.created', 'user.created']));
    expect(await types('agent=ada&type=agent.*')).toEqual(['agent.created']);
    expect(await types(`agent=${ada.id}&type=*&order=desc&limit=1`)).toEqual(['agent.created']);
    expect((await types('order=desc')).at(-1)).toBe('user.created');
    const own = await here.get(`/api/v1/users/${user.id}/agents/ada/events`, ada.key);
    expect(own.json.data.map((event: { agent_id: string }) => event.agent_id)).toEqual([ada.id]);
  });

  test('tells of a container from its first stage to its end', async () => {
    const user = await here.user();
    const agent = await here.agent(user, 'ada');
    await here.ready(user);
    const told = async (types: string) => (await here.get(`/api/v1/users/${user.id}/events?type=${types}`, user.key)).json.data;
    const events = await told('deployment.stage,deployment.ready,instance.*');
    const created = events.find(({ type }: { type: string }) => type === 'instance.created');
    expect(created).toMatchObject({ actor: 'reconciler', data: { deployment_id: agent.deploymentId } });
    const stages = events.map(({ type, data }: { type: string; data: { stage?: string } }) => `${type} ${data.stage ?? ''}`);
    expect(stages).toContain('deployment.stage starting');
    expect(stages.at(-1)).toBe('deployment.ready ready');
    expect((await here.call('DELETE', `/api/v1/users/${user.id}/agents/ada`, { key: user.key })).status).toBe(202);
    await until(async () => (await told('instance.ended')).length === 1, 'the end of the instance');
    expect((await told('instance.ended'))[0].data).toMatchObject({
      instance_id: created.data.instance_id,
      reason: expect.any(String),
    });
  });

  test('refuses what is no filter and no cursor, and a stranger as if there were no such user', async () => {
    const [user, stranger] = [await here.user(), await here.user()];
    const path = `/api/v1/users/${user.id}/events`;
    for (const [query, field] of [
      ['type=Agent', 'query.type'],
      ['type=agent.*.x', 'query.type'],
      ['cursor=nonsense', 'cursor'],
      ['order=up', 'query.order'],
    ]) {
      const answer = await here.get(`${path}?${query}`, user.key);
      expect([answer.status, answer.json.fields?.[0]?.path.replace(/\.\d+$/, '')]).toEqual([400, field]);
    }
    expect((await here.get(`${path}?agent=nobody`, user.key)).status).toBe(404);
    expect((await here.get(path, stranger.key)).json.error).toBe('user not found');
  });

  test('says what is missing where a cursor is older than what is kept', async () => {
    const user = await here.user();
    for (let n = 0; n < 5; n++) await happen(db(), user.id, 'test.happened', { n });
    const path = `/api/v1/users/${user.id}/events`;
    const { cursor } = (await here.get(`${path}?limit=2`, user.key)).json.data[1];
    await sql`update events set at = now() - interval '40 days' where user_id = ${user.id} and seq <= 4`.execute(db());
    const app = await startApp({ beside: here, env: { EVENTS_RETENTION_DAYS: '39' } });
    try {
      await until(async () => (await here.get(path, user.key)).json.data[0].seq === 5, 'the old ones to be forgotten');
    } finally {
      await app.leave();
    }
    const gap = { missed: 2, from_seq: 3, to_seq: 4, reason: 'expired', cursor: expect.any(String) };
    expect((await here.get(`${path}?cursor=${cursor}`, user.key)).json).toMatchObject({ gap, data: [{ seq: 5 }, { seq: 6 }] });
    const reader = await stream(here, user, `&cursor=${cursor}`);
    await reader.until(() => seqs(reader).length === 2, 'the events that are kept');
    expect(reader.events.map(({ event, data }) => [event, data.seq ?? data.missed])).toEqual([
      ['ready', undefined],
      ['gap', 2],
      ['event', 5],
      ['event', 6],
    ]);
    reader.hangUp();
  });
});

describe('the stream of events', () => {
  test('brings what happens here and in another process, once and in order', async () => {
    const user = await here.user();
    const readers = [await stream(here, user), await stream(there, user, '&type=*')];
    const agents = [await here.agent(user, 'one'), await there.agent(user, 'two')];
    await here.ready(user);
    const { data } = (await here.get(`/api/v1/users/${user.id}/events?limit=200`, user.key)).json;
    expect(data.filter((event: { type: string }) => event.type === 'agent.created')).toHaveLength(agents.length);
    const after = data.slice(1).map((event: { seq: number }) => event.seq);
    for (const reader of readers) {
      await reader.until(() => seqs(reader).length >= after.length, 'all events');
      expect(seqs(reader).slice(0, after.length)).toEqual(after);
      expect(reader.events[0]).toMatchObject({ event: 'ready', data: { cursor: data[0].cursor } });
      expect(reader.events[1]!.data).toEqual(data[1]);
      expect(reader.text).toContain(`id: ${data[1].cursor}\nevent: event\n`);
      reader.hangUp();
    }
  });

  test('brings what an agent is told of to its own key, and nothing else', async () => {
    const user = await here.user();
    const [ada, bob] = [await here.agent(user, 'ada'), await here.agent(user, 'bob')];
    const reader = await EventReader.open(`${here.url}/api/v1/users/${user.id}/agents/ada/events`, {
      method: 'GET',
      key: ada.key,
      headers: { accept: 'text/event-stream' },
    });
    await reader.first('ready');
    await happen(db(), user.id, 'test.happened', { agent_id: bob.id });
    await happen(db(), user.id, 'test.happened', { agent_id: ada.id });
    await reader.until(() => seqs(reader).length > 0, 'an event');
    expect(reader.events.at(-1)!.data.agent_id).toBe(ada.id);
    reader.hangUp();
  });

  test('finds what a process wrote that died before it said so', async () => {
    const user = await here.user();
    const reader = await stream(here, user);
    await reader.first('ready');
    const seq = await happen(silent, user.id, 'test.happened');
    await reader.until(() => seqs(reader).includes(seq), 'the event of which no word came');
    reader.hangUp();
  });

  test('goes on exactly once, wherever it was cut', async () => {
    const user = await here.user();
    const start = (await here.get(`/api/v1/users/${user.id}/events`, user.key)).json.data[0].cursor;
    for (let n = 0; n < 2; n++) await happen(db(), user.id, 'test.happened', { text: 'ä\n€' });
    const whole = await stream(here, user, `&cursor=${start}`);
    await whole.until(() => seqs(whole).length === 2, 'both events');
    whole.hangUp();
    // From the greeting to the first byte of the second event.
    const bytes = Buffer.byteLength(whole.text.slice(0, whole.text.lastIndexOf('id: ') + 1));
    expect(bytes).toBeGreaterThan(200);
    const wrong: unknown[] = [];
    // What comes after a cursor does not depend on where the client was cut.
    const resumed = new Map<string, ReturnType<typeof untilSeq>>();
    const resume = (cursor: string) => {
      const known = resumed.get(cursor) ?? untilSeq(user, cursor, 3);
      resumed.set(cursor, known);
      return known;
    };
    let next = 1;
    const cutter = async () => {
      for (let at = next++; at <= bytes; at = next++) {
        const first = parsed(await firstBytes(user, start, at));
        const second = first.seqs.length === 2 ? { seqs: [] } : parsed(await resume(first.lastId ?? start));
        if (JSON.stringify([...first.seqs, ...second.seqs]) !== '[2,3]') wrong.push({ at, first, second });
      }
    };
    await Promise.all(Array.from({ length: 8 }, cutter));
    expect(wrong).toEqual([]);
  });

  /** The first bytes of a stream; the connection is cut after them. */
  function firstBytes(user: User, cursor: string, bytes: number): Promise<Buffer> {
    return readUntil(user, cursor, (sofar) => sofar.length >= bytes).then((all) => all.subarray(0, bytes));
  }

  function untilSeq(user: User, lastId: string, seq: number): Promise<Buffer> {
    return readUntil(user, lastId, (sofar) => parsed(sofar).seqs.at(-1) === seq);
  }

  function readUntil(user: User, lastId: string, isEnough: (sofar: Buffer) => boolean): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const headers = { 'x-api-key': here.adminKey, 'last-event-id': lastId };
      const sent = request(`${here.url}/api/v1/users/${user.id}/events?stream=true`, { headers, agent: false }, (response) => {
        let sofar = Buffer.alloc(0);
        response.on('error', () => undefined);
        response.on('data', (chunk: Buffer) => {
          sofar = Buffer.concat([sofar, chunk]);
          if (!isEnough(sofar)) return;
          sent.destroy();
          resolve(sofar);
        });
      });
      sent.on('error', reject).end();
    });
  }

  function parsed(bytes: Buffer): { seqs: number[]; lastId: string | undefined } {
    const found: number[] = [];
    let lastId: string | undefined;
    const parser = createParser({
      onEvent: ({ event, id, data }) => {
        lastId = id ?? lastId;
        if (event === 'event') found.push(JSON.parse(data).seq);
      },
    });
    parser.feed(new TextDecoder().decode(bytes, { stream: true }));
    return { seqs: found, lastId };
  }

  test('a client that does not read is told and dropped, and holds up nobody', async () => {
    const user = await here.user();
    const ended = await streamsEnded();
    const [slow, quick] = [await stream(here, user), await stream(here, user)];
    await Promise.all([slow.first('ready'), quick.first('ready')]);
    slow.pause();
    const text = 'x'.repeat(300_000);
    const count = 40;
    for (let n = 0; n < count; n++) await happen(db(), user.id, 'test.happened', { text });
    const last = count + 1;
    await quick.until(() => seqs(quick).at(-1) === last, 'the quick one to have all');
    expect(seqs(quick)).toEqual(Array.from({ length: count }, (_, i) => i + 2));
    quick.hangUp();
    await until(async () => (await streamsEnded()) > ended, 'the slow one to be dropped');
    slow.resume();
    await slow.end();
    expect(slow.events.at(-1)).toMatchObject({ event: 'dropped', data: { cursor: expect.any(String) } });
    const seen = seqs(slow);
    expect(seen.length).toBeLessThan(count);
    const again = await stream(here, user, '', { 'last-event-id': slow.events.at(-1)!.data.cursor });
    await again.until(() => seqs(again).at(-1) === last, 'the rest');
    expect([...seen, ...seqs(again)]).toEqual(Array.from({ length: count }, (_, i) => i + 2));
    again.hangUp();
  });

  /** Streams that ended by themselves and not by their client's going. */
  async function streamsEnded(): Promise<number> {
    const { text } = await here.get('/metrics', here.adminKey);
    const line =
      /^http_request_duration_seconds_count\{route="\/api\/v1\/users\/:user\/events",method="GET",status="2xx"\} (\d+)/m;
    return Number(line.exec(text)?.[1] ?? 0);
  }

  test('ends with the key that opened it, and with the user', async () => {
    const user = await here.user();
    const spare = (await here.post(`/api/v1/users/${user.id}/keys`, user.key, {})).json;
    const reader = await stream(there, { ...user, key: spare.api_key });
    const byAdmin = await stream(there, { ...user, key: here.adminKey });
    await Promise.all([reader.first('ready'), byAdmin.first('ready')]);
    expect((await here.call('DELETE', `/api/v1/users/${user.id}/keys/${spare.id}`, { key: user.key })).status).toBe(204);
    await reader.end();
    expect(reader.events.at(-1)).toMatchObject({ event: 'error', data: { code: 'unauthorized' } });
    expect((await here.call('DELETE', `/api/v1/users/${user.id}`, { key: here.adminKey })).status).toBe(202);
    await byAdmin.end();
    expect(byAdmin.names.at(-1)).toBe('error');
    expect(byAdmin.events.map(({ data }) => data.type)).toContain('user.deleting');
  });

  test('refuses more streams of a user than are allowed, and those of others not', async () => {
    const [user, other] = [await here.user(), await here.user()];
    const readers = await Promise.all(Array.from({ length: 60 }, () => stream(here, user)));
    await Promise.all(readers.map((reader) => reader.first('ready')));
    const refused = await stream(here, user);
    await refused.end();
    expect(refused.events.at(-1)).toMatchObject({ event: 'error', data: { code: 'rate_limited' } });
    const fine = await stream(here, other);
    await fine.first('ready');
    for (const reader of [...readers, fine]) reader.hangUp();
    await until(async () => {
      const again = await stream(here, user);
      await again.until(() => again.events.length > 0, 'an answer');
      again.hangUp();
      return again.names[0] === 'ready';
    }, 'room for another');
  });
});

describe('the feed', () => {
  test('does not take a user for gone whose first stream is opened while it looks', async () => {
    const [one, two] = [await here.user(), await here.user()];
    let [answer, asked] = [() => {}, () => {}];
    const isAsked = new Promise<void>((resolve) => (asked = resolve));
    const mayAnswer = new Promise<void>((resolve) => (answer = resolve));
    const looks = new WeakSet<object>();
    const slow = db().withPlugin({
      transformQuery({ node, queryId }) {
        if (/"leftJoin|LeftJoin/.test(JSON.stringify(node))) looks.add(queryId);
        return node;
      },
      async transformResult({ result, queryId }) {
        if (looks.has(queryId)) await (asked(), mayAnswer);
        return result;
      },
    });
    const bus = new LocalBus(createLog('silent'));
    const feed = new Feed({ db: slow, bus, log: createLog('silent'), pollMs: 10 });
    feed.start();
    const readers = [await feed.open(one.id, undefined)];
    await isAsked;
    readers.push(await feed.open(two.id, undefined));
    const batch = readers[1]!.next(new AbortController().signal);
    answer();
    const seq = await happen(db(), two.id, 'test.happened');
    expect((await batch).events.map((event) => event.seq)).toEqual([seq]);
    for (const reader of readers) reader.close();
    await feed.stop();
  });

  test('reads an event once, however many streams its user has', async () => {
    const user = await here.user();
    const reads: string[] = [];
    const counting = new Kysely<Schema>({
      dialect: new PostgresDialect({ pool: new pg.Pool({ connectionString: here.database.url, max: 4 }) }),
      log: ({ query }) => void (query.sql.includes('from "events"') && reads.push(query.sql)),
    });
    const bus = new LocalBus(createLog('silent'));
    const feed = new Feed({ db: counting, bus, log: createLog('silent'), pollMs: 3_600_000 });
    feed.start();
    const readers = await Promise.all(Array.from({ length: 200 }, () => feed.open(user.id, undefined)));
    const batches = readers.map((reader) => reader.next(new AbortController().signal));
    const seq = await happen(counting, user.id, 'test.happened');
    bus.publish('event', user.id);
    for (const { events } of await Promise.all(batches)) expect(events.map((event) => event.seq)).toEqual([seq]);
    expect(reads).toHaveLength(1);
    for (const reader of readers) reader.close();
    await feed.stop();
    await counting.destroy();
  });
});
