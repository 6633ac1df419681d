import { request } from 'node:http';
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openDatabase } from '../../src/db/open.js';
import { createLog } from '../../src/lib/log.js';
import { startApp, type TestApp } from '../support/app.js';
import { testDatabase } from '../support/database.js';
import { happen } from '../support/happen.js';
import { SocketClient } from '../support/socket-client.js';
import { until } from '../support/until.js';

let here: TestApp;
let there: TestApp;
let closeOther: () => Promise<void>;

beforeAll(async () => {
  const database = await testDatabase('postgres');
  const other = await openDatabase({ databaseUrl: database.url, dataDir: '', log: createLog('silent') });
  closeOther = () => other.close();
  here = await startApp({ database, app: { events: { slowMs: 300, feed: { readersAtMost: 2 } } } });
  there = await startApp({ database: { ...other, url: database.url }, beside: here });
});
afterAll(async () => {
  await there.stop();
  await here.stop();
  await closeOther();
});

const db = () => here.database.db;
const seqs = (client: SocketClient): number[] => client.events.map(({ seq }) => seq);

async function subscribed(app: TestApp, key: string, event = '*', more: object = {}): Promise<SocketClient> {
  const client = await SocketClient.open(`${app.url}/api/v1/ws`, { 'x-api-key': key });
  await client.ask({ type: 'subscribe', event, ...more }, 'subscribed');
  return client;
}

describe('who may open a WebSocket', () => {
  test('whoever shows a key in a header or in the first message', async () => {
    const user = await here.user();
    const byHeader = await SocketClient.open(`${here.url}/api/v1/ws`, { authorization: `Bearer ${user.key}` });
    expect(await byHeader.next('ready')).toEqual({ type: 'ready', user_id: user.id });
    const byMessage = await SocketClient.open(`${here.url}/api/ws`);
    expect(await byMessage.ask({ type: 'auth', key: user.key }, 'ready')).toEqual({ type: 'ready', user_id: user.id });
    expect((await byMessage.ask({ type: 'auth', key: user.key }, 'error')).code).toBe('conflict');
    const admin = await SocketClient.open(`${here.url}/api/v1/ws`);
    expect((await admin.ask({ type: 'auth', key: here.adminKey, user: user.name }, 'ready')).user_id).toBe(user.id);
    for (const client of [byHeader, byMessage, admin]) client.hangUp();
  });

  test('nobody else: an unknown key, none at all, another user', async () => {
    const [user, other] = [await here.user(), await here.user()];
    await expect(SocketClient.open(`${here.url}/api/v1/ws`, { 'x-api-key': 'berth_usr_nothing' })).rejects.toThrow(
      /^401 \{.*"code":"unauthorized"/,
    );
    for (const [message, code] of [
      [{ type: 'auth', key: 'berth_usr_nothing' }, 'unauthorized'],
      [{ type: 'auth', key: user.key, user: other.name }, 'not_found'],
      [{ type: 'subscribe', event: '*' }, 'unauthorized'],
      ['{', 'invalid_request'],
    ] as const) {
      const client = await SocketClient.open(`${here.url}/api/v1/ws`);
      expect((await client.ask(message, 'error')).code).toBe(code);
      expect((await client.end()).code).toBe(1008);
    }
  });

  test('the holder of a ticket, once, in any process', async () => {
    const user = await here.user();
    const issue = async () => (await here.post('/api/v1/ws/tickets', user.key, {})).json.ticket as string;
    const open = (app: TestApp, ticket: string) => SocketClient.open(`${app.url}/api/v1/ws?ticket=${ticket}`);
    const ticket = await issue();
    const plain = await there.get(`/api/v1/ws?ticket=${ticket}`);
    expect([plain.status, plain.json.code]).toEqual([426, 'upgrade_required']);
    const client = await open(there, ticket);
    expect((await client.next('ready')).user_id).toBe(user.id);
    await expect(open(here, ticket)).rejects.toThrow(/^401 .*the ticket was used/);
    const contested = await issue();
    const tries = await Promise.allSettled([0, 1, 2, 3, 4, 5].map((n) => open(n % 2 === 0 ? here : there, contested)));
    expect(tries.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    const late = await issue();
    await db()
      .updateTable('socket_tickets')
      .set({ expires_at: new Date(Date.now() - 1_000) })
      .execute();
    await expect(open(here, late)).rejects.toThrow(/^401/);
    client.hangUp();
  });
});

describe('a WebSocket', () => {
  test('brings what is subscribed to, from both processes, until it is not', async () => {
    const user = await here.user();
    const client = await SocketClient.open(`${here.url}/api/v1/ws`, { 'x-api-key': user.key });
    const answer = await client.ask({ type: 'subscribe', event: 'task.completed' }, 'subscribed');
    expect(answer).toEqual({ type: 'subscribed', event: 'task.completed', agent_id: null, cursor: expect.any(String) });
    await happen(db(), user.id, 'task.created');
    const first = await happen(there.database.db, user.id, 'task.completed', { task_id: 'one' });
    await until(() => client.events.length === 1, 'the event');
    expect(client.events[0]).toEqual({
      type: 'event',
      event: 'task.completed',
      id: expect.stringMatching(/^evt_/),
      seq: first,
      at: expect.any(String),
      actor: 'test',
      request_id: null,
      agent_id: null,
      data: { task_id: 'one' },
      cursor: expect.any(String),
    });
    await client.ask({ type: 'subscribe', event: 'agent.*', agent: 'agt_00000000000000000000000000' }, 'subscribed');
    await client.ask({ type: 'unsubscribe', event: 'task.completed' }, 'unsubscribed');
    await happen(db(), user.id, 'task.completed');
    await happen(db(), user.id, 'agent.created', { agent_id: 'another' });
    const wanted = await happen(db(), user.id, 'agent.created', { agent_id: 'agt_00000000000000000000000000' });
    await until(() => client.events.length === 2, 'the other event');
    expect(client.events[1].seq).toBe(wanted);
    // The place goes on over what was not asked for.
    const pong = await client.ask({ type: 'ping' }, 'pong');
    expect(pong.cursor).toBe(client.events[1].cursor);
    client.hangUp();
  });

  test('goes on after a cursor in another process, and says what is missing', async () => {
    const user = await here.user();
    const client = await subscribed(here, user.key);
    await happen(db(), user.id, 'test.happened');
    await until(() => client.events.length === 1, 'an event');
    client.hangUp();
    const last = await happen(db(), user.id, 'test.happened');
    const again = await subscribed(there, user.key, '*', { cursor: client.events[0].cursor });
    await until(() => seqs(again).at(-1) === last, 'the rest');
    expect(seqs(again)).toEqual([last]);
    const refused = await again.ask({ type: 'subscribe', event: 'a.b', cursor: client.events[0].cursor }, 'error');
    expect(refused).toMatchObject({ code: 'conflict', fields: [{ path: 'cursor' }] });
    again.hangUp();
    await db().deleteFrom('events').where('user_id', '=', user.id).where('seq', '<', last).execute();
    const late = await subscribed(here, user.key, '*', { cursor: Buffer.from('e0').toString('base64url') });
    expect(await late.next('gap')).toMatchObject({ missed: last - 1, from_seq: 1, reason: 'expired' });
    await until(() => seqs(late).at(-1) === last, 'what is kept');
    late.hangUp();
  });

  test("hears with an agent's key of that agent alone", async () => {
    const user = await here.user();
    const [ada, bob] = [await here.agent(user, 'ada'), await here.agent(user, 'bob')];
    const client = await subscribed(here, ada.key, 'test.*');
    expect((await client.ask({ type: 'subscribe', event: '*', agent: 'bob' }, 'error')).error).toBe('agent not found');
    await happen(db(), user.id, 'test.happened', { agent_id: bob.id });
    await happen(db(), user.id, 'test.happened');
    const seq = await happen(db(), user.id, 'test.happened', { agent_id: ada.id });
    await until(() => seqs(client).length > 0, 'an event');
    expect(seqs(client)).toEqual([seq]);
    client.hangUp();
  });

  test('answers what it does not understand, and is closed by a flood', async () => {
    const user = await here.user();
    const client = await SocketClient.open(`${here.url}/api/v1/ws`, { 'x-api-key': user.key });
    for (const [message, code] of [
      ['[]', 'invalid_request'],
      [{ type: 'dance' }, 'invalid_request'],
      [{ type: 'subscribe', event: 'Not A Type' }, 'invalid_request'],
      [{ type: 'subscribe', event: '*', cursor: 'x' }, 'invalid_request'],
      [{ type: 'subscribe', event: '*', agent: 'nobody' }, 'not_found'],
    ] as const) {
      expect((await client.ask(message, 'error')).code).toBe(code);
    }
    expect(await client.ask({ type: 'ping' }, 'pong')).toEqual({ type: 'pong' });
    for (let n = 0; n < 200; n++) client.say({ type: 'ping' });
    expect(await client.end()).toEqual({ code: 1008, reason: 'too many messages' });
    const large = await SocketClient.open(`${here.url}/api/v1/ws`, { 'x-api-key': user.key });
    large.say('x'.repeat(20_000));
    expect((await large.end()).code).toBe(1009);
  });

  test('drops a client that does not read, having told it, and holds up nobody', async () => {
    const user = await here.user();
    const quick = await subscribed(here, user.key);
    const slow = await subscribed(here, user.key);
    slow.pause();
    const text = 'x'.repeat(300_000);
    const count = 40;
    for (let n = 0; n < count; n++) await happen(db(), user.id, 'test.happened', { text });
    await until(() => seqs(quick).length === count, 'the quick one to have all');
    // There is room for two, and so for another once one was dropped.
    await until(async () => {
      const third = await SocketClient.open(`${here.url}/api/v1/ws`, { 'x-api-key': user.key });
      third.say({ type: 'subscribe', event: '*' });
      await until(() => third.messages.length > 1, 'an answer');
      third.hangUp();
      return third.messages[1].type === 'subscribed';
    }, 'the slow one to be dropped');
    slow.resume();
    // Hung up on (1006) where it took this test longer than Berth's patience to read on.
    const { code } = await slow.end();
    const told = slow.messages.find(({ type }) => type === 'dropped');
    expect([code, told?.cursor]).toEqual(told ? [1013, slow.events.at(-1).cursor] : [1006, undefined]);
    const seen = seqs(slow);
    expect(seen).toEqual(seqs(quick).slice(0, seen.length));
    expect(seen.length).toBeLessThan(count);
    quick.hangUp();
  });

  test('is closed when its process ends, and when its key does', async () => {
    const user = await here.user();
    const spare = (await here.post(`/api/v1/users/${user.id}/keys`, user.key, {})).json;
    const byKey = await subscribed(here, spare.api_key);
    await here.call('DELETE', `/api/v1/users/${user.id}/keys/${spare.id}`, { key: user.key });
    expect(await byKey.end()).toMatchObject({ code: 1008 });
    const third = await startApp({ beside: here });
    const [busy, idle] = [await subscribed(third, user.key), await SocketClient.open(`${third.url}/api/v1/ws`)];
    await third.leave();
    expect([(await busy.end()).code, (await idle.end()).code]).toEqual([1012, 1012]);
  });
});

describe('requests that offer another protocol', () => {
  test('are served as if they did not, with their body', async () => {
    const user = await here.user();
    const { hostname, port } = new URL(here.url);
    const body = JSON.stringify({ name: 'spare' });
    const answer = await new Promise<{ status: number; text: string }>((resolve, reject) => {
      const sent = request(
        {
          hostname,
          port,
          method: 'POST',
          path: `/api/v1/users/${user.id}/keys`,
          headers: {
            'x-api-key': user.key,
            'content-type': 'application/json',
            'content-length': Buffer.byteLength(body),
            connection: 'Upgrade, HTTP2-Settings',
            upgrade: 'h2c',
            'http2-settings': 'AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA',
          },
        },
        (response) => {
          let text = '';
          response.on('data', (chunk: Buffer) => (text += chunk.toString()));
          response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
        },
      );
      sent.on('error', reject).end(body);
    });
    expect(answer.status).toBe(201);
    expect(JSON.parse(answer.text).name).toBe('spare');
  });

  test('are refused in words where the path takes no WebSocket, or the handshake is none', async () => {
    await expect(SocketClient.open(`${here.url}/api/v1/nowhere`)).rejects.toThrow(/^404 .*"no_route"/);
    await expect(SocketClient.open(`${here.url}/health`)).rejects.toThrow(/^200 /);
    const { hostname, port } = new URL(here.url);
    const socket = connect(Number(port), hostname);
    socket.write('GET /api/v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
    let text = '';
    for await (const chunk of socket) text += String(chunk);
    expect(text).toMatch(/^HTTP\/1\.1 400 /);
  });
});
