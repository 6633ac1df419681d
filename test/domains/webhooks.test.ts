import { randomBytes } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { IN_ORDER_TRIES, verdictOn } from '../../src/domains/webhooks/retry.js';
import { openDatabase } from '../../src/db/open.js';
import { RETRIES_S } from '../../src/lib/attempt.js';
import { createLog } from '../../src/lib/log.js';
import { startApp, type TestApp } from '../support/app.js';
import { testDatabase } from '../support/database.js';
import { happen } from '../support/happen.js';
import { HookReceiver, isSigned } from '../support/hook-receiver.js';
import { until } from '../support/until.js';

type User = Awaited<ReturnType<TestApp['user']>>;
// oxlint-disable-next-line typescript/no-explicit-any -- tests look into it freely
type Json = any;

const QUICK = { retriesS: [0, 0, 0, 0, 0.2, 0.2], everyMs: 500, disableAfterS: 0 };

let here: TestApp;
let there: TestApp;
let closeOther: () => Promise<void>;
const receivers: HookReceiver[] = [];

beforeAll(async () => {
  const database = await testDatabase('postgres');
  const other = await openDatabase({ databaseUrl: database.url, dataDir: '', log: createLog('silent') });
  closeOther = () => other.close();
  const app = { webhooks: QUICK, outbound: { totalMs: 4_000 } };
  const env = { WEBHOOK_ALLOW_PRIVATE: '127.0.0.1' };
  here = await startApp({ database, app, env });
  there = await startApp({ database: { ...other, url: database.url }, beside: here, app, env });
});
afterAll(async () => {
  await there.stop();
  await here.stop();
  await closeOther();
  for (const receiver of receivers) await receiver.stop();
});

const db = () => here.database.db;

async function receiver(): Promise<HookReceiver> {
  const made = await HookReceiver.start();
  receivers.push(made);
  return made;
}

async function hook(user: User, wish: object): Promise<Json> {
  const answer = await here.post(`/api/v1/users/${user.id}/webhooks`, user.key, { events: ['test.*'], ...wish });
  expect(answer.status, answer.text).toBe(201);
  return answer.json;
}

const pathOf = (user: User, { id }: { id: string }) => `/api/v1/users/${user.id}/webhooks/${id}`;

async function deliveries(user: User, webhook: { id: string }, query = ''): Promise<Json[]> {
  return (await here.get(`${pathOf(user, webhook)}/deliveries${query}`, user.key)).json.data;
}

describe('when an attempt is made again', () => {
  test('is by a schedule of about a day, in order at first', () => {
    expect(verdictOn({ status: 200 }, 1)).toEqual({ status: 'delivered' });
    expect(verdictOn({ status: 299 }, 9)).toEqual({ status: 'delivered' });
    expect(verdictOn({ status: 500 }, 1)).toEqual({ status: 'pending', inS: 5, inOrder: true });
    expect(verdictOn({ error: 'no answer' }, 2)).toEqual({ status: 'pending', inS: 30, inOrder: true });
    expect(verdictOn({ status: 302 }, IN_ORDER_TRIES)).toEqual({ status: 'pending', inS: 600, inOrder: false });
    expect(verdictOn({ status: 500 }, RETRIES_S.length + 1)).toEqual({ status: 'failed' });
    expect(verdictOn({ status: 410 }, 1)).toEqual({ status: 'failed' });
    expect(verdictOn({ status: 429, retryAfter: '60' }, 1)).toEqual({ status: 'pending', inS: 60, inOrder: true });
    expect(verdictOn({ status: 429, retryAfter: '999999' }, 1)).toMatchObject({ inS: 3_600 });
    expect(verdictOn({ status: 429, retryAfter: '1' }, 3)).toMatchObject({ inS: 120 });
    expect(verdictOn({ status: 429, retryAfter: 'Wed, 21 Oct 2030 07:28:00 GMT' }, 1)).toMatchObject({ inS: 5 });
    const hours = RETRIES_S.reduce((sum, wait) => sum + wait, 0) / 3_600;
    expect(hours).toBeGreaterThan(23);
  });
});

describe('a webhook', () => {
  test('is made, shown without its secret, changed and deleted; all of it is in the events', async () => {
    const user = await here.user();
    const target = await receiver();
    const made = await hook(user, { url: target.url, description: 'ours' });
    expect(made).toMatchObject({ status: 'active', enabled: true, events: ['test.*'], secret: expect.stringMatching(/^whsec_/) });
    const path = pathOf(user, made);
    const read = await here.get(`/api/v1/webhooks/${made.id}`, user.key);
    const { secret: _, ...shown } = made;
    expect(read.json).toEqual(shown);
    expect(read.headers.get('etag')).toBe('"1"');
    expect((await here.get('/api/v1/webhooks', user.key)).json).toMatchObject({ data: [shown], pagination: { total: 1 } });
    const changed = await here.call('PUT', path, {
      key: user.key,
      body: { events: ['*'], enabled: false },
      headers: { 'if-match': '"1"' },
    });
    expect(changed.json).toMatchObject({
      events: ['*'],
      status: 'disabled',
      disabled_reason: 'it was disabled by its user',
      version: 2,
    });
    const stale = await here.call('PUT', path, { key: user.key, body: { enabled: true }, headers: { 'if-match': '"1"' } });
    expect(stale.status).toBe(412);
    expect((await here.call('DELETE', path, { key: user.key })).status).toBe(204);
    expect((await here.get(path, user.key)).json.error).toBe('webhook not found');
    const events = (await here.get(`/api/v1/users/${user.id}/events?type=webhook.*`, user.key)).json.data;
    expect(events.map(({ type, data }: Json) => [type, data])).toEqual([
      ['webhook.created', { webhook_id: made.id }],
      ['webhook.updated', { webhook_id: made.id, fields: ['events', 'enabled'] }],
      ['webhook.deleted', { webhook_id: made.id }],
    ]);
    expect(JSON.stringify(await db().selectFrom('webhooks').selectAll().execute())).not.toContain(made.secret);
  });

  test('refuses what is no URL to send to, no secret and no type, by the name of the field', async () => {
    const user = await here.user();
    const path = `/api/v1/users/${user.id}/webhooks`;
    for (const [wish, field] of [
      [{ url: 'nonsense' }, 'url'],
      [{ url: 'ftp://example.com/' }, 'url'],
      [{ url: 'https://user:password@example.com/' }, 'url'],
      [{ url: 'https://example.com:22/' }, 'url'],
      [{ url: 'http://10.0.0.1/' }, 'url'],
      [{ url: 'http://169.254.169.254/latest/meta-data/' }, 'url'],
      [{ url: 'http://[::1]/' }, 'url'],
      [{ url: 'http://[::ffff:10.0.0.1]/' }, 'url'],
      [{ url: 'http://0x7f.1/' }, undefined],
      [{ url: 'https://example.com/', secret: 'hunter2' }, 'secret'],
      [{ url: 'https://example.com/', secret: `whsec_${randomBytes(23).toString('base64')}` }, 'secret'],
      [{ url: 'https://example.com/', events: ['Not a type'] }, 'events.0'],
      [{ url: 'https://example.com/', events: [] }, 'events'],
      [{ url: 'https://example.com/', owner: 'me' }, 'owner'],
      [{}, 'url'],
    ] as const) {
      const answer = await here.post(path, user.key, wish);
      // 0x7f.1 is 127.0.0.1 to the URL standard, which is allowed here.
      if (field === undefined) expect(answer.json.url).toBe('http://127.0.0.1/');
      else
        expect([answer.status, answer.json.fields?.[0]?.path, JSON.stringify(wish)]).toEqual([400, field, JSON.stringify(wish)]);
      expect(answer.text).not.toContain('hunter2');
    }
    for (let n = 1; n < 20; n++) await hook(user, { url: 'https://example.com/' });
    expect((await here.post(path, user.key, { url: 'https://example.com/' })).json.code).toBe('limit_exceeded');
  });

  test('brings events of either process, signed, each once and in order', async () => {
    const user = await here.user();
    const target = await receiver();
    const secret = `whsec_${randomBytes(24).toString('base64')}`;
    const webhook = await hook(user, { url: target.url, secret });
    await happen(db(), user.id, 'other.happened');
    const wanted: number[] = [];
    for (let n = 0; n < 10; n++)
      wanted.push(await happen(n % 2 === 0 ? db() : there.database.db, user.id, 'test.happened', { n }));
    const [first] = await target.got(10);
    expect(target.seqs).toEqual(wanted);
    expect(target.received.every((received) => isSigned(received, secret))).toBe(true);
    expect(isSigned(first!, `whsec_${randomBytes(24).toString('base64')}`)).toBe(false);
    const [event] = (await here.get(`/api/v1/users/${user.id}/events?type=test.happened&limit=1`, user.key)).json.data;
    expect(first).toMatchObject({
      id: event.id,
      headers: { 'content-type': 'application/json' },
      json: { type: 'test.happened', timestamp: event.at, data: { n: 0 }, id: event.id, user_id: user.id, actor: 'test' },
    });
    await until(async () => (await deliveries(user, webhook, '?status=delivered&limit=200')).length === 10, 'the log');
    const [last] = await deliveries(user, webhook);
    const detail = (await here.get(`${pathOf(user, webhook)}/deliveries/${last.id}`, user.key)).json;
    expect(detail).toMatchObject({ attempts: 1, body: target.received.at(-1)!.body, log: [{ n: 1, status: 204, error: null }] });
  });

  test('is tried again where its receiver fails in any way, and no other waits for that', async () => {
    const user = await here.user();
    const [bad, good] = [await receiver(), await receiver()];
    const webhook = await hook(user, { url: bad.url });
    await hook(user, { url: good.url });
    const ways: ((response: ServerResponse) => void)[] = [
      (response) => response.writeHead(500).end('broken \0 here'),
      (response) => response.writeHead(302, { location: good.url }).end(),
      (response) => response.destroy(),
      () => undefined, // no answer at all
      (response) => endless(response.writeHead(500)),
      (response) => response.writeHead(200).end('thanks'),
    ];
    bad.answer = (response) => ways[bad.received.length - 1]!(response);
    await happen(db(), user.id, 'test.happened');
    await good.got(1);
    await bad.got(6);
    await until(async () => (await deliveries(user, webhook))[0].status === 'delivered', 'the delivery to be settled');
    const [{ id }] = await deliveries(user, webhook);
    const { log } = (await here.get(`${pathOf(user, webhook)}/deliveries/${id}`, user.key)).json;
    expect(log.map(({ n, status }: Json) => [n, status])).toEqual([
      [1, 500],
      [2, 302],
      [3, null],
      [4, null],
      [5, 500],
      [6, 200],
    ]);
    expect(log[0]).toMatchObject({ response: 'broken \uFFFD here', error: 'the receiver answered 500' });
    expect(log[3].error).toMatch(/took longer/);
    expect(log[4].response).toHaveLength(1_000);
    expect(new Set(bad.received.map((received) => received.body)).size).toBe(1);
    expect(good.received).toHaveLength(1);
    expect((await here.get(pathOf(user, webhook), user.key)).json).toMatchObject({ status: 'active', failing_since: null });
  });

  /** Writes for ever, as fast as it is read. */
  function endless(response: ServerResponse): void {
    const more = () => {
      while (!response.destroyed && response.write('x'.repeat(10_000)));
    };
    response.on('drain', more).on('error', () => undefined);
    more();
  }

  test('keeps the order while a receiver is down, up to a point', async () => {
    const user = await here.user();
    const target = await receiver();
    await hook(user, { url: target.url });
    const first = await happen(db(), user.id, 'test.happened');
    target.answer = (response, { json }) => {
      const tries = target.seqs.filter((seq) => seq === json.seq).length;
      response.writeHead(json.seq === first && tries <= IN_ORDER_TRIES ? 503 : 204).end();
    };
    const second = await happen(db(), user.id, 'test.happened');
    await until(() => target.seqs.includes(second) && target.seqs.filter((seq) => seq === first).length > IN_ORDER_TRIES, 'both');
    // What fails lastingly is set aside, and goes on beside the others.
    expect(target.seqs.slice(0, IN_ORDER_TRIES)).toEqual(Array<number>(IN_ORDER_TRIES).fill(first));
    expect(target.seqs.filter((seq) => seq === second)).toHaveLength(1);
  });

  test('is disabled when its receiver has failed for too long, or says that it is gone', async () => {
    const user = await here.user();
    const [dead, gone] = [await receiver(), await receiver()];
    dead.answer = (response) => response.writeHead(500).end();
    gone.answer = (response) => response.writeHead(410).end();
    const [ofDead, ofGone] = [await hook(user, { url: dead.url }), await hook(user, { url: gone.url })];
    await happen(db(), user.id, 'test.happened');
    const read = async (webhook: Json) => (await here.get(pathOf(user, webhook), user.key)).json;
    await until(
      async () => (await read(ofDead)).status === 'disabled' && (await read(ofGone)).status === 'disabled',
      'both to be disabled',
    );
    expect(dead.received).toHaveLength(QUICK.retriesS.length + 1);
    expect(gone.received).toHaveLength(1);
    expect((await read(ofDead)).disabled_reason).toBe('every attempt has failed for too long');
    expect((await read(ofGone)).disabled_reason).toBe('the receiver answered 410 Gone');
    const events = (await here.get(`/api/v1/users/${user.id}/events?type=webhook.disabled`, user.key)).json.data;
    expect(events.map(({ data }: Json) => data.webhook_id).toSorted()).toEqual([ofDead.id, ofGone.id].toSorted());
    const [{ id }] = await deliveries(user, ofDead);
    const replay = (webhook: Json) => here.post(`${pathOf(user, webhook)}/deliveries/${id}/replay`, user.key, undefined);
    expect((await replay(ofDead)).json.code).toBe('conflict');
    // What happened meanwhile is not sent; what is replayed is, under the same id.
    await happen(db(), user.id, 'test.happened');
    dead.answer = (response) => response.writeHead(204).end();
    await here.call('PUT', pathOf(user, ofDead), { key: user.key, body: { enabled: true } });
    const now = await happen(db(), user.id, 'test.happened');
    await dead.got(QUICK.retriesS.length + 2);
    expect(dead.seqs.at(-1)).toBe(now);
    expect((await replay(ofDead)).status).toBe(202);
    await dead.got(QUICK.retriesS.length + 3);
    expect(dead.received.at(-1)).toMatchObject({ id: dead.received[0]!.id, body: dead.received[0]!.body });
    expect((await replay(ofGone)).status).toBe(409);
  });

  test('signs with both secrets while one takes over from the other', async () => {
    const user = await here.user();
    const target = await receiver();
    const webhook = await hook(user, { url: target.url });
    const rotated = await here.post(`${pathOf(user, webhook)}/rotate-secret`, user.key, {});
    expect(rotated.json).toMatchObject({ id: webhook.id, old_secret_until: expect.any(String) });
    await happen(db(), user.id, 'test.happened');
    const [during] = await target.got(1);
    expect([isSigned(during!, webhook.secret), isSigned(during!, rotated.json.secret)]).toEqual([true, true]);
    const at_once = await here.post(`${pathOf(user, webhook)}/rotate-secret`, user.key, { overlap_s: 0 });
    await happen(db(), user.id, 'test.happened');
    const [, after] = await target.got(2);
    expect([isSigned(after!, rotated.json.secret), isSigned(after!, at_once.json.secret)]).toEqual([false, true]);
    // A new master key wraps the user's data key anew, and so what is sealed under it opens as before.
    expect((await here.post('/api/v1/vault/rotations', here.adminKey, {})).status).toBe(202);
    await until(
      async () => (await here.get('/api/v1/vault/rotations/current', here.adminKey)).json.state === 'done',
      'the master key to be changed',
    );
    await happen(db(), user.id, 'test.happened');
    const [, , last] = await target.got(3);
    expect(isSigned(last!, at_once.json.secret)).toBe(true);
  });

  test('is tested at once, and told what came of it', async () => {
    const user = await here.user();
    const target = await receiver();
    const webhook = await hook(user, { url: target.url });
    const test = async () => (await here.post(`/api/v1/webhooks/${webhook.id}/test`, user.key, undefined)).json;
    expect(await test()).toMatchObject({ delivered: true, attempt: { status: 204, error: null } });
    expect(target.received[0]!.json).toMatchObject({ type: 'webhook.test', data: { webhook_id: webhook.id } });
    expect(isSigned(target.received[0]!, webhook.secret)).toBe(true);
    target.answer = (response) => response.writeHead(404).end('nobody here');
    expect(await test()).toMatchObject({ delivered: false, attempt: { status: 404, response: 'nobody here' } });
    expect((await deliveries(user, webhook)).map(({ type, status }) => [type, status])).toEqual([
      ['webhook.test', 'failed'],
      ['webhook.test', 'delivered'],
    ]);
  });

  test('is never sent to an address that is not public, whatever a name says', async () => {
    const user = await here.user();
    const webhook = await hook(user, { url: 'https://example.com/' });
    // As if the name had been changed since: what is dialled is checked each time.
    for (const url of ['http://10.1.2.3/', 'http://[fd00:ec2::254]/', 'http://100.100.100.200/']) {
      await db().updateTable('webhooks').set({ url }).where('id', '=', webhook.id).execute();
      const { json } = await here.post(`${pathOf(user, webhook)}/test`, user.key, undefined);
      expect(json).toMatchObject({
        delivered: false,
        attempt: { status: null, error: expect.stringMatching(/must not be a .* address/) },
      });
    }
  });

  test('goes on where a process stopped in the middle of an attempt', async () => {
    const user = await here.user();
    const target = await receiver();
    const webhook = await hook(user, { url: target.url });
    // A process that died holds the lease until its time is over.
    const lease = { lease_by: 'p-dead', lease_until: new Date(Date.now() + 3_600_000) };
    await db().updateTable('webhooks').set(lease).where('id', '=', webhook.id).execute();
    const seq = await happen(db(), user.id, 'test.happened');
    await until(async () => (await happen(db(), user.id, 'other.happened')) > seq + 3, 'others to be looked at');
    expect(target.received).toEqual([]);
    await db()
      .updateTable('webhooks')
      .set({ lease_until: new Date(Date.now() - 1_000) })
      .where('id', '=', webhook.id)
      .execute();
    await target.got(1);
    expect(target.seqs).toEqual([seq]);
    // One that is stopped in an orderly way ends its attempts and lets go of them.
    target.answer = () => undefined;
    const third = await startApp({ beside: here, app: { webhooks: QUICK }, env: { WEBHOOK_ALLOW_PRIVATE: '127.0.0.1' } });
    await happen(third.database.db, user.id, 'test.happened');
    await target.got(2);
    await third.leave();
    target.answer = (response) => response.writeHead(204).end();
    await until(async () => (await deliveries(user, webhook))[0].status === 'delivered', 'the rest to be sent');
  });

  test('is gone with its user, log and all', async () => {
    const user = await here.user();
    const target = await receiver();
    await hook(user, { url: target.url });
    await happen(db(), user.id, 'test.happened');
    await target.got(1);
    expect((await here.call('DELETE', `/api/v1/users/${user.id}`, { key: here.adminKey })).status).toBe(202);
    await until(async () => {
      const left = await db().selectFrom('users').select('id').where('id', '=', user.id).execute();
      return left.length === 0;
    }, 'the user to be erased');
    for (const table of ['webhooks', 'webhook_deliveries', 'socket_tickets', 'events'] as const)
      expect(await db().selectFrom(table).select('user_id').where('user_id', '=', user.id).execute()).toEqual([]);
  });
});
