import sodium from 'libsodium-wrappers';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readEvents } from '../../src/events/outbox.js';
import { startApp, type Answer, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';
import { EventReader } from '../support/event-reader.js';
import { until } from '../support/until.js';

type User = { id: string; key: string };

describe.each(databaseKinds)('secrets on %s', (kind) => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp({ database: kind });
    await sodium.ready;
  });
  afterAll(() => app.stop());

  const put = (user: User, body: object, path = '', headers: Record<string, string> = {}): Promise<Answer> =>
    app.call('PUT', `/api/v1/users/${user.id}${path.startsWith('/') ? path : `/secrets${path}`}`, {
      key: user.key,
      body,
      headers,
    });
  const list = async (user: User, of = '') => (await app.get(`/api/v1/users/${user.id}${of}/secrets`, user.key)).json.data;
  const names = async (user: User, of = '') => (await list(user, of)).map((one: { name: string }) => one.name);

  /** What the gateway of the agent was told last. */
  const told = (agent: string, user: User): Record<string, string> | undefined => {
    for (const config of app.gateways.configs.values()) {
      const found = config.agents.find((one) => one.incarnation === agent) as { secrets?: Record<string, string> } | undefined;
      if (found) return found.secrets;
    }
    throw new Error(`no gateway of ${user.id} knows ${agent}`);
  };
  const isTold = (agent: string, user: User, wanted: object) =>
    until(
      () => JSON.stringify(told(agent, user) ?? {}) === JSON.stringify(wanted),
      `the gateway to be told ${JSON.stringify(wanted)}`,
    );

  test('are set, changed and deleted in one map, and shown without their values', async () => {
    const user = await app.user();
    const made = await put(user, { TOKEN: 'abcdefghijkl-1234', SHORT: 'abcdefghijk', EMPTY: '' });
    expect(made.status, made.text).toBe(200);
    expect(made.headers.get('etag')).toBe('"1"');
    expect(made.json).toMatchObject({ changed: ['TOKEN', 'SHORT', 'EMPTY'], deleted: [], version: 1 });
    const shown = await app.get(`/api/v1/secrets`, user.key);
    expect(shown.text).not.toContain('abcdefgh');
    expect(shown.json.pagination).toEqual({ next_cursor: null, has_more: false, total: 3 });
    expect(shown.json.data[2]).toMatchObject({
      name: 'TOKEN',
      scope: 'user',
      agent: null,
      overrides: false,
      last4: '1234',
      readable: true,
      version: 1,
      last_used_at: null,
    });
    expect(shown.json.data.map((one: { last4: string }) => one.last4)).toEqual([null, null, '1234']);
    const changed = await put(user, { TOKEN: 'abcdefghijkl-5678', SHORT: null, EMPTY: '', NEVER: null });
    expect(changed.json).toMatchObject({ changed: ['TOKEN'], deleted: ['SHORT'], version: 2 });
    expect(changed.json.data.map((one: { name: string; version: number }) => [one.name, one.version])).toEqual([
      ['EMPTY', 1],
      ['TOKEN', 2],
    ]);
    expect((await put(user, { TOKEN: 'abcdefghijkl-5678' })).json).toMatchObject({ changed: [], deleted: [], version: 2 });
    expect((await app.call('DELETE', '/api/v1/secrets/TOKEN', { key: user.key })).status).toBe(204);
    expect((await app.call('DELETE', '/api/v1/secrets/TOKEN', { key: user.key })).json).toMatchObject({
      code: 'not_found',
      error: 'secret not found',
    });
    expect(await names(user)).toEqual(['EMPTY']);
    const events = await readEvents(app.database.db, user.id, 0, 10);
    expect(events.map(({ type, payload }) => [type, payload])).toEqual([
      ['user.created', { tier: 'pro' }],
      ['secrets.changed', { agent_id: null, changed: ['TOKEN', 'SHORT', 'EMPTY'], deleted: [] }],
      ['secrets.changed', { agent_id: null, changed: ['TOKEN'], deleted: ['SHORT'] }],
      ['secrets.changed', { agent_id: null, changed: [], deleted: ['TOKEN'] }],
    ]);
  });

  test('lie sealed: no value is in any row of the database', async () => {
    const user = await app.user();
    await put(user, { PLAIN_TO_SEE: 'visible-to-nobody-0815' });
    const mailed = await app.post('/api/v1/users', app.adminKey, {
      name: `mail-${kind}`,
      email: 'visible-to-nobody@example.com',
    });
    expect((await app.get(`/api/v1/users/${mailed.json.id}`, app.adminKey)).json.email).toBe('visible-to-nobody@example.com');
    for (const table of ['secrets', 'secret_stores', 'events', 'idempotency_keys', 'users']) {
      const { rows } = await sql<{ text: string }>`select t::text as text from ${sql.table(table)} t`.execute(app.database.db);
      const all = rows.map(({ text }) => text).join('\n');
      expect(all).not.toContain('visible-to-nobody');
      expect(all).not.toContain(Buffer.from('visible-to-nobody').toString('hex'));
    }
  });

  test.each<[string, object, RegExp]>([
    ['PATH', { PATH: 'x' }, /PATH.*reserved/],
    ['a loader variable', { LD_PRELOAD: 'x' }, /LD_PRELOAD.*reserved/],
    ['a proxy in lower case', { https_proxy: 'x' }, /https_proxy.*reserved.*network policy/],
    ['one of Berth', { BERTH_TOKEN: 'x' }, /reserved/],
    ['the prototype', JSON.parse('{"__proto__":"x"}') as object, /"path":"__proto__"/],
    ['a digit first', { '1A': 'x' }, /not beginning with a digit/],
    ['a dash', { 'A-B': 'x' }, /A-Z/],
    ['129 characters', { ['A'.repeat(129)]: 'x' }, /128/],
    ['a number for a value', { A: 5 }, /"path":"A","message":"must be a string/],
    ['NUL', { A: 'a\0b' }, /must not contain NUL/],
    ['half a pair', { A: '\ud800' }, /well-formed/],
    ['a value too long', { A: 'x'.repeat(65_537) }, /65536 bytes/],
    ['nothing', {}, /at least one/],
  ])('%s is refused by field, and nothing of the map is done', async (_, bad, message) => {
    const user = await app.user();
    const answer = await put(user, { GOOD: 'fine', ...bad, ...(Object.keys(bad).length === 0 ? { GOOD: undefined } : {}) });
    expect(answer.status, answer.text).toBe(400);
    expect(answer.text).toMatch(message);
    expect(await names(user)).toEqual([]);
  });

  test('have limits of number and size, which deletions never meet', async () => {
    const user = await app.user();
    const many = Object.fromEntries(Array.from({ length: 200 }, (_, n) => [`N${n}`, 'v']));
    expect((await put(user, many)).status).toBe(200);
    expect((await put(user, { ONE_MORE: 'v' })).json).toMatchObject({
      code: 'limit_exceeded',
      error: 'at most 200 secrets; this would make 201',
    });
    expect((await put(user, { ONE_MORE: 'v', N0: null })).status).toBe(200);
    const big = await app.user();
    expect((await put(big, { A: 'a'.repeat(60_000) })).status).toBe(200);
    expect((await put(big, { B: 'b'.repeat(60_000) })).json.error).toBe('at most 98304 bytes of values; this would make 120000');
    expect((await put(big, { B: 'b'.repeat(60_000), A: 'a' })).status).toBe(200);
    expect((await list(user)).length).toBe(50);
    const page = (await app.get('/api/v1/secrets?limit=150', user.key)).json;
    const rest = (await app.get(`/api/v1/secrets?limit=150&cursor=${page.pagination.next_cursor}`, user.key)).json;
    expect([page.data.length, rest.data.length, rest.pagination.has_more]).toEqual([150, 50, false]);
  });

  test('change only while they are at the version that was seen', async () => {
    const user = await app.user();
    await put(user, { A: '1' });
    expect((await put(user, { A: '2' }, '', { 'if-match': '"0"' })).status).toBe(412);
    expect((await app.call('DELETE', '/api/v1/secrets/A', { key: user.key, headers: { 'if-match': '"7"' } })).status).toBe(412);
    const answers = await Promise.all(['2', '3', '4'].map((value) => put(user, { A: value }, '', { 'if-match': '"1"' })));
    expect(answers.map(({ status }) => status).toSorted()).toEqual([200, 412, 412]);
  });

  test('reach the gateway with the next config, the agent’s own before the user’s, and leave it as they are deleted', async () => {
    const user = await app.user();
    const [a, b] = [
      await app.agent(user, 'a', { isolation: 'dedicated' }),
      await app.agent(user, 'b', { isolation: 'dedicated' }),
    ];
    await app.ready(user);
    await put(user, { COMMON: 'of-the-user', OVER: 'of-the-user' });
    await put(user, { OVER: 'of-agent-a' }, '/agents/a/secrets');
    await isTold(a.id, user, { COMMON: 'of-the-user', OVER: 'of-agent-a' });
    await isTold(b.id, user, { COMMON: 'of-the-user', OVER: 'of-the-user' });
    expect(
      (await list(user, '/agents/a')).map((one: Record<string, unknown>) => [one.name, one.scope, one.agent, one.overrides]),
    ).toEqual([
      ['COMMON', 'user', null, false],
      ['OVER', 'agent', 'a', true],
    ]);
    await until(
      async () => (await list(user, '/agents/a')).every((one: { last_used_at: string | null }) => one.last_used_at !== null),
      'the use to be noted',
    );
    expect((await list(user, '/agents/a')).find((one: { name: string }) => one.name === 'OVER').last_used_by).toBe('a');
    expect((await app.call('DELETE', '/api/v1/agents/a/secrets/COMMON', { key: user.key })).status).toBe(404);
    expect((await app.call('DELETE', '/api/v1/agents/a/secrets/OVER', { key: user.key })).status).toBe(204);
    await isTold(a.id, user, { COMMON: 'of-the-user', OVER: 'of-the-user' });
    await put(user, { COMMON: null, OVER: null });
    await isTold(a.id, user, {});
  });

  test('of one agent are not given to a container that others share, unless that is said to be as wished', async () => {
    const user = await app.user();
    await app.agent(user, 'alone');
    expect((await put(user, { MINE: 'v' }, '/agents/alone/secrets')).status).toBe(200);
    await app.agent(user, 'newcomer');
    expect((await app.get('/api/v1/agents/newcomer', user.key)).json).toMatchObject({
      isolation: 'dedicated',
      isolation_reason: expect.stringMatching(/agent alone has the shared container to itself and secrets of its own/),
    });
    const other = await app.user();
    const [a, b] = [await app.agent(other, 'a'), await app.agent(other, 'b')];
    await app.ready(other);
    const refused = await put(other, { MINE: 'only-for-a' }, '/agents/a/secrets');
    expect(refused.status).toBe(409);
    expect(refused.json.error).toMatch(/agent a shares its container.*dedicated.*\?shared=true/);
    expect(await names(other, '/agents/a')).toEqual([]);
    expect((await put(other, { MINE: null }, '/agents/a/secrets')).status).toBe(200);
    expect((await put(other, { MINE: 'only-for-a' }, '/agents/a/secrets?shared=true')).status).toBe(200);
    expect((await put(other, { MORE: 'also' }, '/agents/a/secrets')).status).toBe(200);
    await isTold(a.id, other, { MINE: 'only-for-a', MORE: 'also' });
    await isTold(b.id, other, {});
  });

  test('can be sealed before they are sent, as GitHub has it', async () => {
    const user = await app.user();
    const agent = await app.agent(user, 'a');
    await app.ready(user);
    const key = (await app.get('/api/v1/secrets/public-key', user.key)).json;
    expect((await app.get('/api/v1/agents/a/secrets/public-key', user.key)).json).toEqual(key);
    const seal = (value: string | Uint8Array, under = key.key) =>
      Buffer.from(sodium.crypto_box_seal(value, Buffer.from(under, 'base64'))).toString('base64');
    const made = await put(user, { PLAIN: 'beside', SEALED: { encrypted_value: seal('grüße'), key_id: key.key_id } });
    expect(made.status, made.text).toBe(200);
    await isTold(agent.id, user, { PLAIN: 'beside', SEALED: 'grüße' });
    const stranger = (await app.get('/api/v1/secrets/public-key', (await app.user()).key)).json;
    const wrong = async (value: object) => {
      const answer = await put(user, { PLAIN: 'changed', SEALED: value });
      return [answer.status, answer.json.fields[0].path];
    };
    expect(await wrong({ encrypted_value: seal('x', stranger.key), key_id: stranger.key_id })).toEqual([422, 'SEALED.key_id']);
    expect(await wrong({ encrypted_value: seal('x', stranger.key), key_id: key.key_id })).toEqual([
      400,
      'SEALED.encrypted_value',
    ]);
    expect(await wrong({ encrypted_value: 'AAAA', key_id: key.key_id })).toEqual([400, 'SEALED.encrypted_value']);
    expect(await wrong({ encrypted_value: 'not base64!', key_id: key.key_id })).toEqual([400, 'SEALED.encrypted_value']);
    expect(await wrong({ encrypted_value: seal('a\0b'), key_id: key.key_id })).toEqual([400, 'SEALED.encrypted_value']);
    expect(await wrong({ encrypted_value: seal(Buffer.from([0xff, 0xfe])), key_id: key.key_id })).toEqual([
      400,
      'SEALED.encrypted_value',
    ]);
    expect(await wrong({ encrypted_value: seal('x') })).toEqual([400, 'SEALED.key_id']);
    expect(await wrong({ encrypted_value: seal('x'), key_id: key.key_id, more: 1 })).toEqual([400, 'SEALED.more']);
    expect(told(agent.id, user)).toEqual({ PLAIN: 'beside', SEALED: 'grüße' });
  });

  test('swapped in the database do not open: the deployment says which, and the rest goes on', async () => {
    const user = await app.user();
    const [bad, good] = [
      await app.agent(user, 'bad', { isolation: 'dedicated' }),
      await app.agent(user, 'good', { isolation: 'dedicated' }),
    ];
    await app.ready(user);
    await put(user, { FINE: 'fine-value-00' });
    await put(user, { FIRST: 'value-of-first', SECOND: 'value-of-second' }, '/agents/bad/secrets');
    await isTold(bad.id, user, { FINE: 'fine-value-00', FIRST: 'value-of-first', SECOND: 'value-of-second' });
    await sql`update secrets s set value = o.value from secrets o where s.scope = ${bad.id} and o.scope = ${bad.id} and s.name <> o.name`.execute(
      app.database.db,
    );
    const shown = await app.get('/api/v1/agents/bad/secrets', user.key);
    expect(shown.status).toBe(200);
    expect(shown.json.data.map((one: Record<string, unknown>) => [one.name, one.readable, one.last4])).toEqual([
      ['FINE', true, 'e-00'],
      ['FIRST', false, null],
      ['SECOND', false, null],
    ]);
    expect((await put(user, { MORE: 'more' })).status).toBe(200);
    await isTold(good.id, user, { FINE: 'fine-value-00', MORE: 'more' });
    const status = async () => (await app.get('/api/v1/deploy/status', user.key)).json;
    const of = async (agent: { deploymentId: string }) =>
      (await status()).deployments.find((one: { id: string }) => one.id === agent.deploymentId);
    await until(async () => (await of(bad)).state === 'failing', 'the deployment to say that it fails');
    expect((await of(bad)).reason).toMatch(/^the secret FIRST of an agent does not open: its row was altered or moved/);
    await until(async () => (await of(good)).state === 'ready', 'the other to be ready');
    expect((await put(user, { FIRST: 'again', SECOND: null }, '/agents/bad/secrets')).status).toBe(200);
    await isTold(bad.id, user, { FINE: 'fine-value-00', FIRST: 'again', MORE: 'more' });
    await app.ready(user);
  });

  test('under a data key that was put into the wrong row do not open, nor are new ones sealed', async () => {
    const [user, thief] = [await app.user(), await app.user()];
    await put(user, { A: 'of-the-one-user' });
    await sql`update users set data_key = (select data_key from users where id = ${thief.id}) where id = ${user.id}`.execute(
      app.database.db,
    );
    expect(await list(user)).toMatchObject([{ name: 'A', readable: false }]);
    expect((await put(user, { B: 'x' })).json).toMatchObject({ code: 'unprocessable' });
    expect((await app.get('/api/v1/secrets/public-key', user.key)).status).toBe(422);
  });

  test('are taken out of the logs, and a new one within a second of a follow', async () => {
    const user = await app.user();
    const agent = await app.agent(user, 'a');
    await app.ready(user);
    await put(user, { DB: 'hunter2/hunter2' });
    await isTold(agent.id, user, { DB: 'hunter2/hunter2' });
    const [instance] = [...app.engine.instances.values()].filter(({ spec }) => spec.userId === user.id);
    const print = (text: string) => app.gateways.programs.get(instance!.spec.instanceId)!.log('stdout', text);
    print('plain hunter2/hunter2, url hunter2%2Fhunter2, password=hunter2/hunter2');
    print(
      JSON.stringify({
        msg: Buffer.from('hunter2/hunter2').toString('base64'),
        level: 'hunter2/hunter2',
        agent: 'hunter2/hunter2',
      }),
    );
    await until(async () => (await app.get('/api/v1/logs', user.key)).json.data.length === 3, 'the lines to be kept');
    const said = await app.get('/api/v1/logs?tail=2', user.key);
    expect(said.text).not.toMatch(/hunter2|aHVudGVyM/);
    expect(said.json.data[0].message).toBe('plain [secret DB], url [secret DB], password=[secret DB]');
    const reader = await EventReader.open(`${app.url}/api/v1/logs?follow=true&tail=0`, { method: 'GET', key: user.key });
    await put(user, { LATER: 'added-during-the-follow' });
    await until(
      () => {
        print('added-during-the-follow');
        return reader.events.some(({ data }) => data.message === '[secret LATER]');
      },
      'the new secret to be hidden',
      2_000,
    );
    reader.hangUp();
  });

  test('go with their agent, and with their user', async () => {
    const user = await app.user();
    await app.agent(user, 'a');
    await put(user, { OWN: 'x' }, '/agents/a/secrets');
    await put(user, { COMMON: 'x' });
    await app.call('DELETE', '/api/v1/agents/a', { key: user.key });
    const count = async () =>
      Number(
        (await sql<{ n: number }>`select count(*) as n from secrets where user_id = ${user.id}`.execute(app.database.db)).rows[0]
          ?.n,
      );
    expect(await count()).toBe(1);
    await app.call('DELETE', `/api/v1/users/${user.id}`, { key: app.adminKey });
    await until(async () => (await count()) === 0, 'the secrets to go');
  });
});
