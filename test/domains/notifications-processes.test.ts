import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openDatabase } from '../../src/db/open.js';
import { createLog } from '../../src/lib/log.js';
import { startApp, type TestApp } from '../support/app.js';
import { startChild } from '../support/child.js';
import { testDatabase } from '../support/database.js';
import { happen } from '../support/happen.js';
import { HookReceiver } from '../support/hook-receiver.js';
import { until } from '../support/until.js';

type User = Awaited<ReturnType<TestApp['user']>>;
// oxlint-disable-next-line typescript/no-explicit-any -- tests look into it freely
type Json = any;

const QUICK = {
  outbound: { totalMs: 3_000 },
  notifications: { retriesS: [0, 0], everyMs: 100, againS: 0.1, checkEveryMs: 20 },
};
const ENV = { WEBHOOK_ALLOW_PRIVATE: '127.0.0.1' };

describe('notifications of two processes on one database', () => {
  let here: TestApp;
  let there: TestApp;
  let closeOther: () => Promise<void>;
  const receivers: HookReceiver[] = [];

  beforeAll(async () => {
    const database = await testDatabase('postgres');
    const other = await openDatabase({ databaseUrl: database.url, dataDir: '', log: createLog('silent') });
    closeOther = () => other.close();
    here = await startApp({ database, app: QUICK, env: ENV });
    there = await startApp({ database: { ...other, url: database.url }, beside: here, app: QUICK, env: ENV });
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

  async function channel(user: User, url: string): Promise<Json> {
    const answer = await here.post(`/api/v1/users/${user.id}/notifications/channels`, user.key, {
      name: 'c',
      kind: 'webhook',
      url,
    });
    expect(answer.status, answer.text).toBe(201);
    return answer.json;
  }

  async function rule(user: User, wish: object): Promise<Json> {
    const answer = await here.post(`/api/v1/users/${user.id}/alerts`, user.key, { name: 'r', ...wish });
    expect(answer.status, answer.text).toBe(201);
    return answer.json;
  }

  const inbox = async (user: User): Promise<Json[]> => (await here.get('/api/v1/notifications?limit=200', user.key)).json.data;
  const pending = (user: User) =>
    db()
      .selectFrom('notification_deliveries')
      .select('id')
      .where('user_id', '=', user.id)
      .where('status', '=', 'pending')
      .execute();

  test('each is recorded once and sent once, whichever of them looks', async () => {
    const users = await Promise.all([here.user(), here.user(), here.user()]);
    const targets = await Promise.all(users.map(receiver));
    for (const [n, user] of users.entries()) {
      const { id } = await channel(user, targets[n]!.url);
      await rule(user, { kind: 'event', events: ['test.*'], channels: [id] });
    }
    const types = Array.from({ length: 20 }, (_, n) => `test.${'abcdefghijklmnopqrst'[n]}`);
    await Promise.all(
      users.map(async (user, n) => {
        for (const [at, type] of types.entries()) await happen(((at + n) % 2 === 0 ? here : there).database.db, user.id, type);
      }),
    );
    for (const [n, user] of users.entries()) {
      await targets[n]!.got(types.length);
      await until(async () => (await pending(user)).length === 0, 'all to be settled');
      const rows = await inbox(user);
      expect(rows.map(({ data, count }) => [data.type, count]).toReversed()).toEqual(types.map((type) => [type, 1]));
      const said = await db()
        .selectFrom('events')
        .select('id')
        .where('user_id', '=', user.id)
        .where('type', '=', 'notification.created')
        .execute();
      expect(said).toHaveLength(types.length);
      expect(targets[n]!.received.map(({ id }) => id).toSorted()).toEqual(rows.map(({ id }) => id).toSorted());
    }
  });

  test('what is measured fires once', async () => {
    const users = await Promise.all(Array.from({ length: 10 }, () => here.user()));
    const rules = await Promise.all(users.map((user) => rule(user, { kind: 'spend', at_least: 1, window_s: 60 })));
    await db()
      .insertInto('usage')
      .values(
        users.map((user) => ({
          id: `use_${user.id}`,
          user_id: user.id,
          deployment_id: 'dep_x',
          instance_id: 'ins_x',
          agent_id: null,
          agent: null,
          turn_id: null,
          process_id: 'p',
          model: 'demo/echo',
          provider: 'demo',
          status: 'finished' as const,
          prompt_tokens: 5,
          error: null,
          ended_at: new Date(),
        })),
      )
      .execute();
    for (const user of users) await until(async () => (await inbox(user)).length > 0, 'it to fire');
    // Each is measured some times more.
    const checked = async () =>
      (
        await db()
          .selectFrom('notification_rules')
          .select('next_check_at')
          .where(
            'id',
            'in',
            rules.map(({ id }) => id),
          )
          .execute()
      ).map(({ next_check_at: at }) => at!.getTime());
    const before = Math.max(...(await checked()));
    await until(async () => Math.min(...(await checked())) > before + 300, 'all to be measured again');
    for (const user of users) expect((await inbox(user)).map(({ kind, count }) => [kind, count])).toEqual([['firing', 1]]);
  });

  test('what a process that died had taken is sent by another once its lease is over', async () => {
    const user = await here.user();
    const target = await receiver();
    const { id } = await channel(user, target.url);
    await rule(user, { kind: 'event', events: ['test.*'], channels: [id] });
    const lease = { lease_by: 'p-dead', lease_until: new Date(Date.now() + 3_600_000) };
    await db().updateTable('notification_channels').set(lease).where('id', '=', id).execute();
    await happen(db(), user.id, 'test.happened');
    await until(async () => (await pending(user)).length === 1, 'it to be on its way');
    const seq = await happen(db(), user.id, 'other.happened');
    await until(async () => {
      const row = await db()
        .selectFrom('notification_readers')
        .select('position')
        .where('user_id', '=', user.id)
        .executeTakeFirst();
      return Number(row!.position) >= seq;
    }, 'others to be looked at');
    expect(target.received).toEqual([]);
    await db()
      .updateTable('notification_channels')
      .set({ lease_until: new Date(Date.now() - 1_000) })
      .where('id', '=', id)
      .execute();
    await target.got(1);
    await until(async () => (await pending(user)).length === 0, 'it to be settled');
    expect(target.received).toHaveLength(1);
  });

  test('an attempt of a process that lost its lease is made again under the same id', async () => {
    const user = await here.user();
    const target = await receiver();
    const { id } = await channel(user, target.url);
    await rule(user, { kind: 'event', events: ['test.*'], channels: [id] });
    // No answer: whoever sends it waits, and somebody else takes the lease meanwhile.
    target.answer = () => undefined;
    await happen(db(), user.id, 'test.happened');
    await target.got(1);
    const holder = await db()
      .selectFrom('notification_channels')
      .select('lease_by')
      .where('id', '=', id)
      .executeTakeFirstOrThrow();
    expect(holder.lease_by).not.toBeNull();
    const stolen = { lease_by: 'p-other', lease_until: new Date(Date.now() - 1_000) };
    await db().updateTable('notification_channels').set(stolen).where('id', '=', id).execute();
    await target.got(2);
    target.answer = (response) => response.writeHead(204).end();
    await until(async () => (await pending(user)).length === 0, 'it to be settled');
    expect(new Set(target.received.map((one) => one.id)).size).toBe(1);
    expect(await inbox(user)).toHaveLength(1);
  });

  test('an attempt in which a process was killed is made again by another once its lease is over, and counts as theirs', async () => {
    const user = await here.user();
    const target = await receiver();
    const { id } = await channel(user, target.url);
    await rule(user, { kind: 'event', events: ['test.*'], channels: [id] });
    const setLease = (lease_until: Date) =>
      db().updateTable('notification_channels').set({ lease_by: 'p-child', lease_until }).where('id', '=', id).execute();
    await setLease(new Date(Date.now() + 3_600_000));
    await happen(db(), user.id, 'test.happened');
    await until(async () => (await pending(user)).length === 1, 'it to be on its way');
    target.answer = () => undefined;
    const child = startChild(new URL('notification-sender-child.ts', import.meta.url), [here.database.url!, user.id, id]);
    child.say(here.masterKey.toString('base64'));
    await target.got(1);
    await child.kill();
    // Nobody knows what came of it: it stands as it was, and is nobody else's before the lease is over.
    const [left] = await inbox(user);
    const deliveries = async () => (await here.get(`/api/v1/notifications/${left.id}`, user.key)).json.deliveries;
    expect(await deliveries()).toMatchObject([{ status: 'pending', tries: 0 }]);
    target.answer = (response) => response.writeHead(target.received.length === 2 ? 500 : 204).end();
    await setLease(new Date(Date.now() - 1_000));
    await target.got(3);
    await until(async () => (await pending(user)).length === 0, 'it to be settled');
    expect(await deliveries()).toMatchObject([{ status: 'delivered', tries: 2 }]);
    expect(target.received.map((one) => one.id)).toEqual([left.id, left.id, left.id]);
  });

  test('is seen and read by either', async () => {
    const user = await here.user();
    await rule(user, { kind: 'event', events: ['test.*'] });
    await happen(db(), user.id, 'test.happened');
    await until(async () => (await inbox(user)).length === 1, 'the notification');
    const [row] = await inbox(user);
    const { data } = (await there.get('/api/v1/events?type=notification.*&order=desc&limit=1', user.key)).json;
    expect(data).toMatchObject([{ type: 'notification.created', actor: 'notifications', data: { notification_id: row.id } }]);
    expect((await there.call('PUT', `/api/v1/notifications/${row.id}/read`, { key: user.key })).status).toBe(200);
    expect((await here.get('/api/v1/notifications/unread-count', user.key)).json).toEqual({ count: 0 });
  });
});
