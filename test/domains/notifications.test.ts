import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Condition, conditionOf, isAbout, type RuleKind } from '../../src/domains/notifications/condition.js';
import { slackBody } from '../../src/domains/notifications/message.js';
import { isQuietAt, quietLookS } from '../../src/domains/notifications/quiet.js';
import { checkAgainS, findingOf, type Watched } from '../../src/domains/notifications/threshold.js';
import { RETRIES_S, verdictOn } from '../../src/lib/attempt.js';
import { startApp, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';
import { happen } from '../support/happen.js';
import { HookReceiver, isSigned } from '../support/hook-receiver.js';
import { until } from '../support/until.js';

type User = Awaited<ReturnType<TestApp['user']>>;
// oxlint-disable-next-line typescript/no-explicit-any -- tests look into it freely
type Json = any;

describe('when it is quiet', () => {
  const night = { from: '22:00', to: '07:00', time_zone: 'Europe/Berlin' };

  test.each([
    // In winter Berlin is an hour ahead, in summer two.
    [night, '2030-01-10T20:59:59Z', false],
    [night, '2030-01-10T21:00:00Z', true],
    [night, '2030-01-11T05:59:00Z', true],
    [night, '2030-01-11T06:00:00Z', false],
    [night, '2030-07-10T20:00:00Z', true],
    [night, '2030-07-11T05:00:00Z', false],
    [{ from: '09:00', to: '17:00' }, '2030-01-10T12:00:00Z', true],
    [{ from: '09:00', to: '17:00' }, '2030-01-10T17:00:00Z', false],
    [{ from: '00:00', to: '24:00', days: ['sat', 'sun'] as const }, '2030-01-12T23:59:00Z', true],
    [{ from: '00:00', to: '24:00', days: ['sat', 'sun'] as const }, '2030-01-14T00:00:00Z', false],
    // It begins on Friday and ends on Saturday.
    [{ from: '20:00', to: '08:00', days: ['fri'] as const }, '2030-01-11T21:00:00Z', true],
    [{ from: '20:00', to: '08:00', days: ['fri'] as const }, '2030-01-12T07:00:00Z', true],
    [{ from: '20:00', to: '08:00', days: ['fri'] as const }, '2030-01-11T07:00:00Z', false],
    [{ from: '20:00', to: '08:00', days: ['fri'] as const }, '2030-01-12T21:00:00Z', false],
    // The hour that the clocks of Berlin leave out, and the one that comes twice.
    [{ from: '02:30', to: '03:30', time_zone: 'Europe/Berlin' }, '2030-03-31T01:00:00Z', true],
    [{ from: '02:30', to: '02:45', time_zone: 'Europe/Berlin' }, '2030-10-27T01:35:00Z', true],
  ])('%j at %s: %s', (quiet, at, expected) => {
    expect(isQuietAt({ ...quiet, days: 'days' in quiet ? [...quiet.days] : undefined }, new Date(at))).toBe(expected);
  });

  test('is looked at again at its end, and before that now and then', () => {
    expect(quietLookS(night, new Date('2030-01-11T05:58:30Z'), 300)).toBe(90);
    expect(quietLookS(night, new Date('2030-01-10T23:00:00Z'), 300)).toBe(300);
    expect(quietLookS(night, new Date('2030-01-10T23:00:00Z'), 100_000)).toBe(7 * 3_600);
    expect(isQuietAt(null, new Date())).toBe(false);
  });
});

describe('what a measure makes of a rule', () => {
  const rule: Watched = {
    kind: 'spend',
    condition: { at_least: 100, window_s: 3_600 },
    state: 'ok',
    repeat_after_s: 600,
    notify_resolved: true,
  };
  const rate: Watched = { ...rule, kind: 'error_rate', condition: { at_least: 50, window_s: 60, min_turns: 4 } };

  test.each([
    [rule, { value: 99 }, 0, { state: 'ok', say: undefined }],
    [rule, { value: 100 }, 0, { state: 'firing', say: 'firing' }],
    [{ ...rule, state: 'firing' }, { value: 100 }, 599, { state: 'firing', say: undefined }],
    [{ ...rule, state: 'firing' }, { value: 100 }, 600, { state: 'firing', say: 'again' }],
    [{ ...rule, state: 'firing', repeat_after_s: null }, { value: 100 }, 1e9, { state: 'firing', say: undefined }],
    [{ ...rule, state: 'firing' }, { value: 99 }, 0, { state: 'ok', say: 'resolved' }],
    [{ ...rule, state: 'firing', notify_resolved: false }, { value: 99 }, 0, { state: 'ok', say: undefined }],
    [{ ...rule, state: 'firing' }, { value: undefined }, 0, { state: 'ok', say: undefined }],
    [rate, { value: 100, outOf: 3 }, 0, { state: 'ok', say: undefined }],
    [rate, { value: 50, outOf: 4 }, 0, { state: 'firing', say: 'firing' }],
    [{ ...rule, kind: 'silence', condition: { window_s: 60 } }, { value: 60 }, 0, { state: 'firing', say: 'firing' }],
  ] as const)('%#', (watched, measure, saidS, expected) => {
    expect(findingOf(watched as Watched, measure, saidS)).toEqual(expected);
  });

  test('is measured the less often the longer its window is', () => {
    expect([60, 3_600, 86_400].map((windowS) => checkAgainS({ window_s: windowS }))).toEqual([15, 60, 600]);
  });
});

test('a condition has what its kind needs, and nothing of another', () => {
  expect(conditionOf('error_rate', { at_least: 20, window_s: 60 })).toEqual({ at_least: 20, window_s: 60, min_turns: 5 });
  expect(conditionOf('spend', { at_least: 7 }, { at_least: 5, window_s: 60 })).toEqual({
    unit: 'tokens',
    at_least: 7,
    window_s: 60,
  });
  const wrong: [RuleKind, Condition, string][] = [
    ['event', {}, 'events'],
    ['event', { events: ['notification.*'] }, 'events.0'],
    ['event', { events: ['a.b'], window_s: 60 }, 'window_s'],
    ['spend', { window_s: 60 }, 'at_least'],
    ['spend', { window_s: 60, at_least: 0.5 }, 'at_least'],
    ['error_rate', { window_s: 60, at_least: 101 }, 'at_least'],
    ['silence', { window_s: 60, events: ['*'] }, 'events'],
  ];
  for (const [kind, wish, field] of wrong) {
    expect(() => conditionOf(kind, wish)).toThrow(
      expect.objectContaining({ fields: [expect.objectContaining({ path: field })] }),
    );
  }
});

test('no rule is about notifications, however wide it is', () => {
  const rule = { condition: { events: ['*'] }, agent_id: null };
  expect(isAbout(rule, { type: 'agent.created', agentId: undefined })).toBe(true);
  expect(isAbout(rule, { type: 'notification.created', agentId: undefined })).toBe(false);
  expect(isAbout({ ...rule, agent_id: 'agt_1' }, { type: 'agent.created', agentId: 'agt_2' })).toBe(false);
});

test('an attempt is made again for about a day, unless that is of no use', () => {
  expect(verdictOn({}, 1)).toEqual({ status: 'delivered' });
  expect(verdictOn({ error: 'x' }, 1)).toEqual({ status: 'pending', inS: 5 });
  expect(verdictOn({ error: 'x', retryAfterS: 60 }, 1)).toEqual({ status: 'pending', inS: 60 });
  expect(verdictOn({ error: 'x', retryAfterS: 1e9 }, 1)).toEqual({ status: 'pending', inS: 3_600 });
  expect(verdictOn({ error: 'x', isFinal: true }, 1)).toEqual({ status: 'failed' });
  expect(verdictOn({ error: 'x', isGone: true }, 1)).toEqual({ status: 'failed' });
  expect(verdictOn({ error: 'x' }, RETRIES_S.length + 1)).toEqual({ status: 'failed' });
});

test('nothing in a text is a link or a mention to Slack', () => {
  const { text } = JSON.parse(slackBody({ id: '1', subject: '<!channel> & co', text: '<https://evil.example|here>', body: '' }));
  expect(text).toBe('*&lt;!channel&gt; &amp; co*\n&lt;https://evil.example|here&gt;');
});

describe.each(databaseKinds)('notifications on %s', (kind) => {
  let app: TestApp;
  let nowMs = Date.parse('2030-01-10T12:00:00Z');
  const receivers: HookReceiver[] = [];

  beforeAll(async () => {
    app = await startApp({
      database: kind,
      env: { WEBHOOK_ALLOW_PRIVATE: '127.0.0.1' },
      app: {
        notifications: {
          retriesS: [0, 0, 0.1],
          everyMs: 500,
          disableAfterS: 0,
          clock: { now: () => nowMs },
          quietLookAtMostS: 0.1,
          againS: 0.5,
          checkEveryMs: 200,
        },
        outbound: { totalMs: 5_000 },
      },
    });
  });
  afterAll(async () => {
    await app.stop();
    for (const receiver of receivers) await receiver.stop();
  });

  const db = () => app.database.db;

  async function receiver(): Promise<HookReceiver> {
    const made = await HookReceiver.start();
    receivers.push(made);
    return made;
  }

  async function make(user: User, what: 'rules' | 'channels', wish: object): Promise<Json> {
    const answer = await app.post(`/api/v1/users/${user.id}/notifications/${what}`, user.key, { name: 'mine', ...wish });
    expect(answer.status, answer.text).toBe(201);
    return answer.json;
  }

  const put = (user: User, path: string, body: object) =>
    app.call('PUT', `/api/v1/users/${user.id}/${path}`, { key: user.key, body });

  async function inbox(user: User, query = ''): Promise<Json[]> {
    return (await app.get(`/api/v1/users/${user.id}/notifications${query}`, user.key)).json.data;
  }

  async function got(user: User, count: number): Promise<Json[]> {
    let last: Json[] = [];
    await until(
      async () => (last = await inbox(user)).length >= count,
      () => `${count} notifications: ${JSON.stringify(last)}`,
    );
    return last;
  }

  const detail = async (user: User, { id }: { id: string }) =>
    (await app.get(`/api/v1/users/${user.id}/notifications/${id}`, user.key)).json;

  describe('a rule', () => {
    test('is made, listed by both names, changed and deleted; all of it is in the events', async () => {
      const user = await app.user();
      const made = await app.post('/api/v1/alerts', user.key, { name: 'much', kind: 'spend', at_least: 1e6, window_s: 86_400 });
      expect(made.json).toMatchObject({
        kind: 'spend',
        unit: 'tokens',
        at_least: 1e6,
        severity: 'warning',
        channels: [],
        dedupe_s: 300,
        state: 'ok',
        version: 1,
      });
      const { id } = made.json;
      const { value: _, ...same } = made.json;
      for (const path of ['/api/v1/alerts', '/api/alerts', '/api/v1/notifications/rules', `/api/v1/users/${user.id}/alerts`]) {
        expect((await app.get(path, user.key)).json).toMatchObject({ data: [same], pagination: { total: 1 } });
        expect((await app.get(`${path}/${id}`, user.key)).headers.get('etag')).toBe('"1"');
      }
      const change = { key: user.key, body: { at_least: 5 }, headers: { 'if-match': '"1"' } };
      expect((await app.call('PUT', `/api/v1/alerts/${id}`, change)).json).toMatchObject({
        at_least: 5,
        window_s: 86_400,
        version: 2,
      });
      expect((await app.call('PUT', `/api/v1/notifications/rules/${id}`, change)).status).toBe(412);
      expect((await app.call('DELETE', `/api/v1/notifications/rules/${id}`, { key: user.key })).status).toBe(204);
      expect((await app.get(`/api/v1/alerts/${id}`, user.key)).json.error).toBe('rule not found');
      const events = (await app.get(`/api/v1/users/${user.id}/events?type=notification.*`, user.key)).json.data;
      expect(events.map(({ type, data }: Json) => [type, data])).toEqual([
        ['notification.rule_created', { rule_id: id }],
        ['notification.rule_updated', { rule_id: id, fields: ['at_least'] }],
        ['notification.rule_deleted', { rule_id: id }],
      ]);
    });

    test('refuses what is none, by the name of the field, and more than a user may have', async () => {
      const [user, other] = [await app.user(), await app.user()];
      const theirs = await make(other, 'channels', { kind: 'slack', url: 'https://hooks.slack.com/services/T/B/secret' });
      const rule = { name: 'r', kind: 'event', events: ['agent.*'] };
      for (const [wish, field] of [
        [{}, 'name'],
        [{ ...rule, name: 'two\nlines' }, 'name'],
        [{ ...rule, name: 'hidden\u202e' }, 'name'],
        [{ ...rule, kind: 'other' }, 'kind'],
        [{ ...rule, events: ['Not a type'] }, 'events.0'],
        [{ ...rule, events: ['notification.created'] }, 'events.0'],
        [{ ...rule, agent: 'nobody' }, 'agent'],
        [{ ...rule, channels: ['nch_nothing'] }, 'channels.0'],
        [{ ...rule, channels: [theirs.id] }, 'channels.0'],
        [{ ...rule, dedupe_s: 0 }, 'dedupe_s'],
        [{ ...rule, at_least: 1 }, 'at_least'],
        [{ ...rule, severity: 'loud' }, 'severity'],
        [{ ...rule, surprise: 1 }, 'surprise'],
        [{ name: 's', kind: 'spend', at_least: 1, window_s: 60, unit: 'micro_usd' }, 'unit'],
        [{ name: 's', kind: 'spend', at_least: 1, window_s: 1e9 }, 'window_s'],
        [{ name: 's', kind: 'silence', window_s: 60 }, 'agent'],
        [{ name: 's', kind: 'error_rate', window_s: 60, at_least: 200 }, 'at_least'],
      ] as const) {
        const answer = await app.post(`/api/v1/users/${user.id}/alerts`, user.key, wish);
        expect([answer.status, answer.json.fields?.[0]?.path, JSON.stringify(wish)]).toEqual([400, field, JSON.stringify(wish)]);
      }
      for (let n = 0; n < 50; n++) await make(user, 'rules', rule);
      expect((await app.post('/api/v1/alerts', user.key, rule)).json.code).toBe('limit_exceeded');
    });

    test('on events notifies of what happens from then on, adds what is the same, and never fires on itself', async () => {
      const user = await app.user();
      await happen(db(), user.id, 'test.happened');
      const rule = await make(user, 'rules', { kind: 'event', events: ['*'], severity: 'info', name: 'all' });
      await happen(db(), user.id, 'test.happened', { agent_id: 'agt_1' });
      await happen(db(), user.id, 'test.happened', { agent_id: 'agt_1' });
      await happen(db(), user.id, 'test.happened', { agent_id: 'agt_2' });
      await got(user, 2);
      await until(async () => (await inbox(user)).some(({ count }) => count === 2), 'the same to be added');
      const rows = await inbox(user);
      expect(
        rows.map(({ title, kind, agent_id, count, read, rule_id, severity }) => ({
          title,
          kind,
          agent_id,
          count,
          read,
          rule_id,
          severity,
        })),
      ).toEqual(
        [
          { agent_id: 'agt_2', count: 1 },
          { agent_id: 'agt_1', count: 2 },
        ].map((one) => ({ title: 'all: test.happened', kind: 'event', read: false, rule_id: rule.id, severity: 'info', ...one })),
      );
      // Each notification is an event; each of these has been held against the rule by now, and nothing came of it.
      const last = await happen(db(), user.id, 'other.happened');
      await got(user, 3);
      const events = (await app.get(`/api/v1/users/${user.id}/events?type=notification.created`, user.key)).json.data;
      expect(events).toHaveLength(3);
      expect(events[0].data).toEqual({ notification_id: rows[1].id, rule_id: rule.id, kind: 'event', severity: 'info' });
      await until(async () => {
        const [reader] = await db().selectFrom('notification_readers').selectAll().where('user_id', '=', user.id).execute();
        return Number(reader!.position) > last;
      }, 'its own event to be read');
      expect(await inbox(user)).toHaveLength(3);
    });

    test('begins anew when it is turned on: what happened meanwhile is nothing to it', async () => {
      const user = await app.user();
      const agent = await app.agent(user, 'ada');
      const rule = await make(user, 'rules', { kind: 'event', events: ['test.*'], agent: 'ada', dedupe_s: 10 });
      expect(rule.agent_id).toBe(agent.id);
      await put(user, `alerts/${rule.id}`, { enabled: false });
      await happen(db(), user.id, 'test.missed', { agent_id: agent.id });
      await put(user, `alerts/${rule.id}`, { enabled: true });
      await happen(db(), user.id, 'test.other', { agent_id: 'agt_other' });
      await happen(db(), user.id, 'test.seen', { agent_id: agent.id });
      expect((await got(user, 1)).map(({ title }) => title)).toEqual(['mine: test.seen']);
    });

    test('makes a bounded number within an hour; the rest is added to the last', async () => {
      const user = await app.user();
      await make(user, 'rules', { kind: 'event', events: ['test.*'] });
      for (let n = 0; n < 70; n++) await happen(db(), user.id, 'test.happened', { agent_id: `agt_${n}` });
      await until(async () => {
        const rows = await inbox(user, '?limit=200');
        return rows.reduce((sum, { count }) => sum + count, 0) === 70;
      }, 'all to be counted');
      expect(await inbox(user, '?limit=200')).toHaveLength(60);
    });
  });

  describe('the inbox', () => {
    test('is read one by one or all at once, and paged', async () => {
      const user = await app.user();
      await make(user, 'rules', { kind: 'event', events: ['test.*'] });
      for (const type of ['test.a', 'test.b', 'test.c']) await happen(db(), user.id, type);
      const rows = await got(user, 3);
      const count = async () => (await app.get('/api/v1/notifications/unread-count', user.key)).json;
      expect(await count()).toEqual({ count: 3 });
      const read = await app.call('PUT', `/api/v1/notifications/${rows[0].id}/read`, { key: user.key });
      expect(read.json).toEqual({ ...rows[0], read: true });
      expect((await app.call('PUT', `/api/v1/notifications/${rows[0].id}/read`, { key: user.key })).status).toBe(200);
      expect(await count()).toEqual({ count: 2 });
      expect((await inbox(user, '?unread=true')).map(({ id }) => id)).toEqual([rows[1].id, rows[2].id]);
      expect((await inbox(user, '?limit=1&offset=1')).map(({ id }) => id)).toEqual([rows[1].id]);
      const first = (await app.get('/api/v1/notifications?limit=2', user.key)).json;
      const second = await inbox(user, `?limit=2&cursor=${first.pagination.next_cursor}`);
      expect([...first.data, ...second].map(({ id }: Json) => id)).toEqual(rows.map(({ id }) => id));
      expect((await app.call('PUT', '/api/v1/notifications/read-all', { key: user.key })).json).toEqual({ count: 2 });
      expect(await count()).toEqual({ count: 0 });
    });

    test("is nobody else's, and no agent's", async () => {
      const [user, other] = [await app.user(), await app.user()];
      const agent = await app.agent(user, 'ada');
      const rule = await make(user, 'rules', { kind: 'event', events: ['test.*'] });
      const channel = await make(user, 'channels', { kind: 'webhook', url: 'https://example.com/x' });
      await happen(db(), user.id, 'test.happened');
      const [row] = await got(user, 1);
      for (const [method, path] of [
        ['GET', `notifications/${row.id}`],
        ['PUT', `notifications/${row.id}/read`],
        ['GET', `notifications/rules/${rule.id}`],
        ['PUT', `notifications/rules/${rule.id}`],
        ['DELETE', `alerts/${rule.id}`],
        ['GET', `notifications/channels/${channel.id}`],
        ['PUT', `notifications/channels/${channel.id}`],
        ['DELETE', `notifications/channels/${channel.id}`],
        ['POST', `notifications/channels/${channel.id}/test`],
        ['POST', `notifications/channels/${channel.id}/code`],
      ] as const) {
        const body = method === 'PUT' && !path.endsWith('read') ? { enabled: false } : undefined;
        expect((await app.call(method, `/api/v1/users/${other.id}/${path}`, { key: other.key, body })).status, path).toBe(404);
        expect((await app.call(method, `/api/v1/users/${user.id}/${path}`, { key: agent.key, body })).status, path).toBe(403);
      }
      expect(await inbox(other)).toEqual([]);
      expect((await app.call('PUT', '/api/v1/notifications/read-all', { key: other.key })).json).toEqual({ count: 0 });
      expect(await inbox(user, '?unread=true')).toHaveLength(1);
    });
  });

  describe('what is measured', () => {
    const spend = (user: User, tokens: number, agentId: string | null = null) =>
      db()
        .insertInto('usage')
        .values({
          id: `use_${randomBytes(8).toString('hex')}`,
          user_id: user.id,
          deployment_id: 'dep_x',
          instance_id: 'ins_x',
          agent_id: agentId,
          agent: null,
          turn_id: null,
          process_id: 'p',
          model: 'demo/echo',
          provider: 'demo',
          status: 'finished',
          prompt_tokens: tokens,
          completion_tokens: 0,
          error: null,
          ended_at: new Date(),
        })
        .execute();
    const state = async (user: User, { id }: { id: string }) =>
      (await app.get(`/api/v1/users/${user.id}/alerts/${id}`, user.key)).json;

    test('spend fires once when it is crossed, again while it holds, and says its end', async () => {
      const user = await app.user();
      const target = await receiver();
      const channel = await make(user, 'channels', { kind: 'webhook', url: target.url });
      const rule = await make(user, 'rules', {
        kind: 'spend',
        at_least: 100,
        window_s: 3_600,
        severity: 'critical',
        channels: [channel.id],
        repeat_after_s: 60,
      });
      await spend(user, 60);
      await until(async () => (await state(user, rule)).value === 60, 'it to be measured');
      expect(await inbox(user)).toEqual([]);
      await spend(user, 40);
      const [fired] = await got(user, 1);
      expect(fired).toMatchObject({ kind: 'firing', severity: 'critical', title: 'mine: much was spent', count: 1 });
      expect(fired.text).toBe('100 tokens in 1 h; the rule is for 100.');
      expect(await state(user, rule)).toMatchObject({ state: 'firing', value: 100, fired_at: expect.any(String) });
      await spend(user, 1);
      await until(async () => (await state(user, rule)).value === 101, 'it to be measured again');
      expect(await inbox(user)).toHaveLength(1);
      // As if it had been said long ago.
      await db()
        .updateTable('notification_rules')
        .set({ notified_at: new Date(Date.now() - 61_000) })
        .where('id', '=', rule.id)
        .execute();
      expect((await got(user, 2))[0]).toMatchObject({ kind: 'firing', data: { still: true, value: 101 } });
      await db().updateTable('usage').set({ prompt_tokens: 1 }).where('user_id', '=', user.id).execute();
      expect((await got(user, 3))[0]).toMatchObject({
        kind: 'resolved',
        severity: 'info',
        title: 'mine: much was spent is over',
      });
      expect(await state(user, rule)).toMatchObject({ state: 'ok', fired_at: null });
      await target.got(3);
      expect(target.received.map(({ json }) => json.data.kind)).toEqual(['firing', 'firing', 'resolved']);
      // What comes and goes is one notification, for as long as the rule says.
      await spend(user, 1_000);
      await until(async () => (await inbox(user)).some(({ kind, count }) => kind === 'firing' && count === 2), 'it to be added');
      expect(target.received).toHaveLength(3);
    });

    test('a rule that cannot be measured holds up no other', async () => {
      const user = await app.user();
      const broken = await make(user, 'rules', { kind: 'spend', at_least: 1, window_s: 60 });
      const condition = JSON.stringify({ unit: 'tokens', at_least: 1, window_s: 1e300 });
      await db().updateTable('notification_rules').set({ condition }).where('id', '=', broken.id).execute();
      const due = new Date(0);
      await db().updateTable('notification_rules').set({ next_check_at: due }).where('id', '=', broken.id).execute();
      const rule = await make(user, 'rules', { kind: 'spend', at_least: 1, window_s: 60 });
      await spend(user, 7);
      await until(async () => (await state(user, rule)).state === 'firing', 'the other to fire');
      const { next_check_at: next } = await db()
        .selectFrom('notification_rules')
        .select('next_check_at')
        .where('id', '=', broken.id)
        .executeTakeFirstOrThrow();
      expect(next!.getTime()).toBeGreaterThan(Date.now() + 30_000);
    });

    test('spend of one agent is not that of another', async () => {
      const user = await app.user();
      const [ada, bob] = [await app.agent(user, 'ada'), await app.agent(user, 'bob')];
      const rule = await make(user, 'rules', { kind: 'spend', at_least: 10, window_s: 60, agent: 'ada' });
      await spend(user, 1_000, bob.id);
      await spend(user, 3, ada.id);
      await until(async () => (await state(user, rule)).value === 3, 'it to be measured');
      expect(await state(user, rule)).toMatchObject({ state: 'ok' });
    });

    test('an error rate counts turns that failed, once there are enough', async () => {
      const user = await app.user();
      await app.agent(user, 'ada');
      await app.ready(user);
      const rule = await make(user, 'rules', { kind: 'error_rate', at_least: 50, window_s: 600, min_turns: 4 });
      const chat = (fails: boolean) => {
        app.gateways.script = fails ? (_, response) => void response.writeHead(500).end() : undefined;
        return app.post(`/api/v1/users/${user.id}/agents/ada/chat`, user.key, { messages: [{ role: 'user', content: 'hi' }] });
      };
      for (const fails of [true, false, false]) await chat(fails);
      await until(async () => (await state(user, rule)).value > 33, 'it to be measured');
      expect((await state(user, rule)).state).toBe('ok');
      await chat(true);
      app.gateways.script = undefined;
      expect((await got(user, 1))[0]).toMatchObject({ kind: 'firing', data: { value: 50, rule_kind: 'error_rate' } });
    });

    test('restarts are containers that ended though nobody wished it', async () => {
      const user = await app.user();
      await app.agent(user, 'ada');
      await app.ready(user);
      const rule = await make(user, 'rules', { kind: 'restarts', at_least: 1, window_s: 3_600, agent: 'ada' });
      await until(async () => (await state(user, rule)).value === 0, 'it to be measured');
      const { instances } = await app.runtime.list();
      const { deployments } = {
        deployments: await db().selectFrom('deployments').select('id').where('user_id', '=', user.id).execute(),
      };
      const live = await db()
        .selectFrom('instances')
        .select('name')
        .where('deployment_id', '=', deployments[0]!.id)
        .where('ended_at', 'is', null)
        .executeTakeFirstOrThrow();
      expect(instances.map(({ name }) => name)).toContain(live.name);
      app.engine.die(live.name, { exitCode: 1 });
      expect((await got(user, 1))[0]).toMatchObject({ kind: 'firing', title: 'mine: containers end unexpectedly' });
    });

    test('silence is an agent of which nothing was heard; a turn ends it', async () => {
      const user = await app.user();
      const agent = await app.agent(user, 'ada');
      await app.ready(user);
      const rule = await make(user, 'rules', { kind: 'silence', window_s: 60, agent: agent.id });
      const long = new Date(Date.now() - 3_600_000);
      await db().updateTable('agents').set({ created_at: long }).where('id', '=', agent.id).execute();
      await until(async () => (await state(user, rule)).value >= 0, 'it to be measured');
      expect((await state(user, rule)).state).toBe('ok');
      await db().updateTable('notification_rules').set({ enabled_at: long }).where('id', '=', rule.id).execute();
      expect((await got(user, 1))[0]).toMatchObject({ kind: 'firing', agent_id: agent.id, title: 'mine: an agent is silent' });
      const chat = { messages: [{ role: 'user', content: 'hi' }] };
      expect((await app.post(`/api/v1/users/${user.id}/agents/ada/chat`, user.key, chat)).status).toBe(200);
      expect((await got(user, 2))[0]).toMatchObject({ kind: 'resolved' });
      expect((await app.call('DELETE', `/api/v1/users/${user.id}/agents/ada`, { key: user.key })).status).toBe(202);
      await until(async () => (await state(user, rule)).value === null, 'nothing to be measured of an agent that is gone');
    });
  });

  describe('a channel', () => {
    test('is made, shown without what is secret, changed and deleted', async () => {
      const user = await app.user();
      const url = 'https://hooks.slack.com/services/T000/B000/very-secret-token';
      const quiet = { from: '22:00', to: '07:00', time_zone: 'Europe/Berlin', days: ['mon'] };
      const slack = await make(user, 'channels', { kind: 'slack', url, quiet });
      expect(slack).toMatchObject({
        kind: 'slack',
        target: 'https://hooks.slack.com/…',
        status: 'active',
        quiet,
        critical_anytime: true,
      });
      const webhook = await make(user, 'channels', { kind: 'webhook', url: 'https://example.com/?token=hidden' });
      expect(webhook).toMatchObject({ target: 'https://example.com/…', secret: expect.stringMatching(/^whsec_/) });
      const { secret: _, ...shown } = webhook;
      const list = await app.get('/api/v1/notifications/channels', user.key);
      expect(list.json).toMatchObject({ data: [slack, shown], pagination: { total: 2 } });
      const path = `notifications/channels/${slack.id}`;
      const changed = await put(user, path, {
        quiet: null,
        name: 'ops',
        enabled: false,
        url: 'https://hooks.slack.com/services/other',
      });
      expect(changed.json).toMatchObject({ name: 'ops', quiet: null, status: 'disabled', version: 2 });
      const stale = await app.call('PUT', `/api/v1/${path}`, {
        key: user.key,
        body: { name: 'x' },
        headers: { 'if-match': '"1"' },
      });
      expect(stale.status).toBe(412);
      const rule = await make(user, 'rules', { kind: 'event', events: ['test.*'], channels: [slack.id, webhook.id] });
      expect(rule.channels.toSorted()).toEqual([slack.id, webhook.id].toSorted());
      expect((await app.call('DELETE', `/api/v1/${path}`, { key: user.key })).status).toBe(204);
      expect((await app.get(`/api/v1/alerts/${rule.id}`, user.key)).json.channels).toEqual([webhook.id]);
      const said = (await app.get(`/api/v1/users/${user.id}/events`, user.key)).text;
      const rows = JSON.stringify(await db().selectFrom('notification_channels').selectAll().execute());
      for (const text of [said, list.text, rows, changed.text]) {
        for (const hidden of ['very-secret-token', 'hidden', webhook.secret, 'services/other'])
          expect(text).not.toContain(hidden);
      }
    });

    test('refuses what cannot be sent to, by the name of the field, and more than a user may have', async () => {
      const user = await app.user();
      const channel = { kind: 'webhook', url: 'https://example.com/' };
      for (const [wish, field] of [
        [{ ...channel, url: 'nonsense' }, 'url'],
        [{ ...channel, url: 'http://10.0.0.1/' }, 'url'],
        [{ ...channel, url: 'http://169.254.169.254/' }, 'url'],
        [{ ...channel, url: 'https://user:hunter2@example.com/' }, 'url'],
        [{ kind: 'slack', url: 'http://example.com/' }, 'url'],
        [{ kind: 'slack' }, 'url'],
        [{ ...channel, address: 'ada@example.com' }, 'address'],
        [{ ...channel, secret: 'hunter2' }, 'secret'],
        [{ ...channel, kind: 'slack', secret: `whsec_${randomBytes(32).toString('base64')}` }, 'secret'],
        [{ ...channel, kind: 'pigeon' }, 'kind'],
        [{ ...channel, quiet: { from: '22:00', to: '22:00' } }, 'quiet.to'],
        [{ ...channel, quiet: { from: '25:00', to: '07:00' } }, 'quiet.from'],
        [{ ...channel, quiet: { from: '22:00', to: '07:00', time_zone: 'Mars/Base' } }, 'quiet.time_zone'],
        [{ ...channel, quiet: { from: '22:00', to: '07:00', days: ['someday'] } }, 'quiet.days.0'],
      ] as const) {
        const answer = await app.post(`/api/v1/users/${user.id}/notifications/channels`, user.key, { name: 'c', ...wish });
        expect([answer.status, answer.json.fields?.[0]?.path, JSON.stringify(wish)]).toEqual([400, field, JSON.stringify(wish)]);
        expect(answer.text).not.toContain('hunter2');
      }
      const mail = await app.post('/api/v1/notifications/channels', user.key, {
        name: 'c',
        kind: 'email',
        address: 'ada@example.com',
      });
      expect([mail.status, mail.json.error]).toEqual([409, 'e-mail is not set up on this Berth: its operator sets SMTP_URL']);
      for (let n = 0; n < 20; n++) await make(user, 'channels', channel);
      expect((await app.post('/api/v1/notifications/channels', user.key, { name: 'c', ...channel })).json.code).toBe(
        'limit_exceeded',
      );
    });

    test('brings what a rule finds: signed to a webhook, as text and blocks to Slack', async () => {
      const user = await app.user();
      const [hook, slack] = [await receiver(), await receiver()];
      const secret = `whsec_${randomBytes(32).toString('base64')}`;
      const first = await make(user, 'channels', { kind: 'webhook', url: hook.url, secret });
      const second = await make(user, 'channels', { kind: 'slack', url: slack.url });
      await make(user, 'rules', { kind: 'event', events: ['test.*'], channels: [first.id, second.id], name: 'A & B' });
      await happen(db(), user.id, 'test.happened');
      const [row] = await got(user, 1);
      const [[toHook], [toSlack]] = [await hook.got(1), await slack.got(1)];
      expect(isSigned(toHook!, secret)).toBe(true);
      expect(toHook).toMatchObject({
        id: row.id,
        json: { type: 'notification.created', data: { id: row.id, title: 'A & B: test.happened' } },
      });
      expect(toSlack!.json.text).toBe(`*[warning] A &amp; B: test.happened*\n${row.text}`);
      expect(toSlack!.json.blocks).toHaveLength(1);
      await until(async () => (await detail(user, row)).deliveries.every(({ status }: Json) => status === 'delivered'), 'both');
      expect((await detail(user, row)).deliveries.map(({ channel_id, tries }: Json) => [channel_id, tries])).toEqual([
        [first.id, 1],
        [second.id, 1],
      ]);
    });

    test('is tested at once, and told what came of it', async () => {
      const user = await app.user();
      const target = await receiver();
      const channel = await make(user, 'channels', { kind: 'webhook', url: target.url });
      const tried = async () => (await app.post(`/api/v1/notifications/channels/${channel.id}/test`, user.key, undefined)).json;
      expect(await tried()).toEqual({ delivered: true, error: null });
      expect(target.received[0]!.json).toMatchObject({ type: 'notification.test', data: { channel_id: channel.id } });
      expect(isSigned(target.received[0]!, channel.secret)).toBe(true);
      target.answer = (response) => response.writeHead(404).end('the token is hunter2');
      expect(await tried()).toEqual({ delivered: false, error: 'the receiver answered 404' });
      target.answer = () => undefined;
      expect((await tried()).error).toMatch(/took longer/);
      expect(await inbox(user)).toEqual([]);
    });

    test('is tried again where its receiver fails, then disabled with a word in the inbox; others go on', async () => {
      const user = await app.user();
      const [bad, good] = [await receiver(), await receiver()];
      const channels = [
        await make(user, 'channels', { kind: 'webhook', url: bad.url, name: 'bad' }),
        await make(user, 'channels', { kind: 'slack', url: good.url }),
      ];
      await make(user, 'rules', { kind: 'event', events: ['test.*'], channels: channels.map(({ id }) => id) });
      let times = 0;
      bad.answer = (response) => void (++times < 3 ? response.writeHead(500).end() : response.writeHead(204).end());
      await happen(db(), user.id, 'test.first');
      await bad.got(3);
      const [first] = await got(user, 1);
      await until(async () => (await detail(user, first)).deliveries[0].status === 'delivered', 'the third attempt');
      bad.answer = (response) => response.writeHead(500).end();
      await happen(db(), user.id, 'test.second');
      await until(async () => (await inbox(user))[0].kind === 'notice', 'the notice');
      expect(bad.received).toHaveLength(3 + 4);
      const [notice, second] = await inbox(user);
      expect(notice).toMatchObject({ title: 'Channel bad was disabled', rule_id: null, data: { channel_id: channels[0].id } });
      expect((await detail(user, second)).deliveries[0]).toMatchObject({
        status: 'failed',
        error: 'the receiver answered 500',
        tries: 4,
      });
      const path = `/api/v1/notifications/channels/${channels[0].id}`;
      expect((await app.get(path, user.key)).json).toMatchObject({
        status: 'disabled',
        disabled_reason: 'every attempt has failed for too long',
      });
      await happen(db(), user.id, 'test.third');
      await good.got(3);
      expect(bad.received).toHaveLength(3 + 4);
      bad.answer = (response) => response.writeHead(410).end();
      expect((await put(user, `notifications/channels/${channels[0].id}`, { enabled: true })).json.status).toBe('active');
      await happen(db(), user.id, 'test.fourth');
      await until(async () => (await app.get(path, user.key)).json.disabled_reason === 'the receiver answered 410 Gone', '410');
      expect(good.received).toHaveLength(4);
    });

    test('keeps quiet when it is to: what comes waits, what is critical does not', async () => {
      const user = await app.user();
      const [loud, still] = [await receiver(), await receiver()];
      const quiet = { from: '22:00', to: '07:00' };
      const channels = [
        await make(user, 'channels', { kind: 'webhook', url: loud.url, quiet }),
        await make(user, 'channels', { kind: 'webhook', url: still.url, quiet, critical_anytime: false }),
      ].map(({ id }) => id);
      await make(user, 'rules', { kind: 'event', events: ['test.minor'], channels });
      await make(user, 'rules', { kind: 'event', events: ['test.grave'], channels, severity: 'critical' });
      nowMs = Date.parse('2030-01-10T23:00:00Z');
      await happen(db(), user.id, 'test.minor');
      await happen(db(), user.id, 'test.grave');
      // The inbox has both at once.
      await got(user, 2);
      await loud.got(1);
      expect(loud.received[0]!.json.data.severity).toBe('critical');
      const waiting = async () =>
        db()
          .selectFrom('notification_deliveries')
          .select(['id', 'next_at', 'tries'])
          .where('user_id', '=', user.id)
          .where('status', '=', 'pending')
          .execute();
      await until(async () => (await waiting()).length === 3, 'the rest to wait');
      const before = await waiting();
      await until(
        async () => (await waiting()).every((row, n) => row.next_at! > before[n]!.next_at!),
        'all to be looked at again',
      );
      expect((await waiting()).map(({ tries }) => tries)).toEqual([0, 0, 0]);
      expect([loud.received.length, still.received.length]).toEqual([1, 0]);
      nowMs = Date.parse('2030-01-11T07:00:00Z');
      await loud.got(2);
      await still.got(2);
      await until(async () => (await waiting()).length === 0, 'all to be settled');
    });

    test('is never sent to an address that is not public, whatever a name says', async () => {
      const user = await app.user();
      const channel = await make(user, 'channels', { kind: 'webhook', url: 'https://localhost:9000/' });
      const { json } = await app.post(`/api/v1/notifications/channels/${channel.id}/test`, user.key, undefined);
      expect(json).toMatchObject({ delivered: false, error: expect.any(String) });
    });
  });

  test('all of it is gone with its user', async () => {
    const user = await app.user();
    const target = await receiver();
    const channel = await make(user, 'channels', { kind: 'webhook', url: target.url });
    await make(user, 'rules', { kind: 'event', events: ['test.*'], channels: [channel.id] });
    await happen(db(), user.id, 'test.happened');
    await target.got(1);
    expect((await app.call('DELETE', `/api/v1/users/${user.id}`, { key: app.adminKey })).status).toBe(202);
    await until(async () => {
      const left = await db().selectFrom('users').select('id').where('id', '=', user.id).execute();
      return left.length === 0;
    }, 'the user to be erased');
    for (const table of [
      'notifications',
      'notification_channels',
      'notification_deliveries',
      'notification_mails',
      'notification_readers',
      'notification_rules',
      'notification_rule_channels',
    ] as const)
      expect(await db().selectFrom(table).select('user_id').where('user_id', '=', user.id).execute()).toEqual([]);
  });
});
