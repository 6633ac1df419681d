import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';
import { EventReader } from '../support/event-reader.js';
import { until } from '../support/until.js';

describe.each(databaseKinds)('conversations on %s', (database) => {
  let app: TestApp;
  let user: Awaited<ReturnType<TestApp['user']>>;
  let agent: Awaited<ReturnType<TestApp['agent']>>;
  beforeAll(async () => {
    app = await startApp({ database });
    user = await app.user();
    agent = await app.agent(user, 'a');
    await app.agent(user, 'b');
    await app.ready(user);
  });
  afterAll(() => app.stop());

  const say = (content: unknown) => ({ messages: [{ role: 'user', content }] });
  const chat = async (content: unknown, { name = 'a', more = {}, key = user.key } = {}) =>
    (await app.post(`/api/v1/agents/${name}/chat`, key, { ...say(content), ...more })).json;
  const begun = async (content: string, name = 'a'): Promise<string> => (await chat(content, { name })).conversation_id;
  const get = (path: string, key = user.key) => app.get(`/api/v1${path}`, key);
  const ids = async (query = '') => (await get(`/conversations${query}`)).json.data.map((one: { id: string }) => one.id);
  const contents = (answer: { json: { data: { content: unknown }[] } }) => answer.json.data.map(({ content }) => content);

  test('are listed, the last used first, a page at a time, of all agents or of one', async () => {
    const made = [await begun('first'), await begun('second'), await begun('third', 'b')] as const;
    await chat('again', { more: { conversation_id: made[0] } });
    expect((await ids()).slice(0, 3)).toEqual([made[0], made[2], made[1]]);
    const page = (await get('/conversations?limit=1')).json;
    expect(page.pagination).toMatchObject({ has_more: true });
    expect((await ids(`?limit=1&cursor=${page.pagination.next_cursor}`))[0]).toBe(made[2]);
    expect(await ids('?agent=b')).toEqual([made[2]]);
    const mine = (await get('/users/me/agents/a/conversations', agent.key)).json.data;
    expect(mine.map((one: { id: string }) => one.id).slice(0, 2)).toEqual([made[0], made[1]]);
    expect(mine[0]).toMatchObject({ agent: 'a', agent_id: agent.id, title: 'first' });
    expect((await get(`/users/me/agents/a/conversations/${made[2]}`, agent.key)).status).toBe(404);
    expect((await get('/conversations', agent.key)).status).toBe(403);
  });

  test('are shown with what was said in them, from either end', async () => {
    const id = await begun('one');
    for (const content of ['two', 'three']) await chat(content, { more: { conversation_id: id } });
    const said = ['one', 'You said: one', 'two', 'You said: two', 'three', 'You said: three'];
    const whole = (await get(`/conversations/${id}`)).json;
    expect(whole.messages.map(({ role, content }: { role: string; content: string }) => [role, content])).toEqual(
      said.map((content, i) => [i % 2 === 0 ? 'user' : 'assistant', content]),
    );
    const page = await get(`/conversations/${id}/messages?limit=2`);
    expect(contents(page)).toEqual(said.slice(0, 4));
    expect(contents(await get(`/conversations/${id}/messages?limit=2&cursor=${page.json.pagination.next_cursor}`))).toEqual(
      said.slice(4),
    );
    expect(contents(await get(`/conversations/${id}/messages?order=desc&limit=1`))).toEqual(said.slice(4).toReversed());
  });

  test('are found by the words of a message or of a reply, those of this user alone', async () => {
    const id = await begun('the Heron stands in the reeds');
    const parts = (await chat([{ type: 'text', text: 'bittern' }])).conversation_id;
    const other = await app.user();
    await app.agent(other, 'a');
    await app.ready(other);
    await chat('another heron', { key: other.key });
    for (const query of ['heron', 'REEDS heron', 'said heron', "heron's'", 'heron)(&|!:*']) {
      const found = await ids(`?query=${encodeURIComponent(query)}`);
      expect([query, found]).toEqual([query, query.startsWith("heron's") ? [] : [id]]);
    }
    expect(await ids('?query=egret')).toEqual([]);
    expect(await ids('?query=heron&agent=b')).toEqual([]);
    expect(await ids('?query=bittern')).toEqual([parts]);
    expect(await ids('?query=!!')).toEqual([]);
    expect((await get(`/conversations/${parts}`)).json.title).toBe('bittern');
    for (const bad of ['', '%20', 'x'.repeat(201)]) {
      const answer = await get(`/conversations?query=${bad}`);
      expect([answer.status, answer.json.fields?.[0]?.path]).toEqual([400, 'query.query']);
    }
  });

  test('are renamed, and begun empty by name', async () => {
    const made = await app.post('/api/v1/conversations', user.key, { agent: 'a', title: 'Plans' });
    expect([made.status, made.json.title, made.json.agent]).toEqual([201, 'Plans', 'a']);
    const path = `/api/v1/conversations/${made.json.id}`;
    const sent = await app.post(`${path}/messages`, user.key, { content: 'hello' });
    expect([sent.status, sent.json.message, sent.json.conversation_id]).toEqual([200, 'You said: hello', made.json.id]);
    for (const body of [{ message: 'again' }, say('and again')])
      expect((await app.post(`${path}/messages`, user.key, body)).status).toBe(200);
    const patched = await app.call('PATCH', path, { key: user.key, body: { title: 'Other plans' } });
    expect([patched.status, (await get(`/conversations/${made.json.id}`)).json.title]).toEqual([200, 'Other plans']);
    for (const title of ['', ' ', 7, 'x'.repeat(201)]) {
      const answer = await app.call('PATCH', path, { key: user.key, body: { title } });
      expect([answer.status, answer.json.fields?.[0]?.path]).toEqual([400, 'title']);
    }
    for (const body of [{}, { content: '' }, { content: 'x', more: 1 }])
      expect((await app.post(`${path}/messages`, user.key, body)).status).toBe(400);
    expect((await app.post('/api/v1/conversations', user.key, { agent: 'nobody' })).status).toBe(404);
  });

  test('are exported whole, for programs and for people', async () => {
    const id = await begun('what a day');
    const json = await get(`/conversations/${id}/export`);
    expect(json.json.messages.map(({ content }: { content: string }) => content)).toEqual(['what a day', 'You said: what a day']);
    const markdown = await get(`/conversations/${id}/export?format=markdown`);
    expect(markdown.headers.get('content-type')).toBe('text/markdown; charset=utf-8');
    expect(markdown.text).toMatch(
      /^# what a day\n\nWith a, begun .*\n\n## user, .*\n\nwhat a day\n\n## assistant, .*\n\nYou said: what a day\n$/,
    );
    expect((await get(`/conversations/${id}/export?format=pdf`)).status).toBe(400);
  });

  test('are deleted with all that was said; an instance that is away forgets them when it is back', async () => {
    const [id, second] = [await begun('secret one'), await begun('secret two')] as const;
    const stream = { ...say('x'), conversation_id: id, resumable: true };
    await (await EventReader.open(`${app.url}/api/v1/agents/a/chat/stream`, { key: user.key, body: stream })).end();
    const rows = async (conversation: string) =>
      (await app.database.db.selectFrom('turns').select('id').where('conversation_id', '=', conversation).execute()).length;
    expect((await app.call('DELETE', `/api/v1/conversations/${id}`, { key: user.key })).status).toBe(204);
    expect([await rows(id), app.gateways.forgotten]).toEqual([0, [`a/${id}`]]);
    expect(await app.database.db.selectFrom('turn_events').select('turn_id').execute()).toEqual([]);
    expect((await get(`/conversations/${id}`)).status).toBe(404);
    expect((await app.post('/api/v1/agents/a/chat', user.key, { ...say('x'), conversation_id: id })).status).toBe(404);
    app.gateways.silent = true;
    app.gateways.cut();
    expect((await app.call('DELETE', `/api/v1/conversations/${second}`, { key: user.key })).status).toBe(204);
    expect(await rows(second)).toBe(0);
    app.gateways.silent = false;
    await until(() => app.gateways.forgotten.includes(`a/${second}`), 'the instance to forget it', 30_000);
    await until(
      async () => (await app.database.db.selectFrom('forgotten_conversations').selectAll().execute()).length === 0,
      'it to be noted',
    );
  });

  test("another user's, and one that never was, are the same 404", async () => {
    const id = await begun('mine');
    const other = await app.user();
    await app.agent(other, 'a');
    const never = `cnv_${'0'.repeat(26)}`;
    const calls: [string, string, unknown?][] = [
      ['GET', ''],
      ['GET', '/messages'],
      ['GET', '/export'],
      ['PATCH', '', { title: 'x' }],
      ['DELETE', ''],
      ['POST', '/messages', { content: 'x' }],
    ];
    for (const [method, rest, body] of calls) {
      const [theirs, none] = await Promise.all(
        [id, never].map((one) =>
          app.call(method, `/api/v1/conversations/${one}${rest}`, { key: other.key, ...(body === undefined ? {} : { body }) }),
        ),
      );
      expect([theirs!.status, { ...theirs!.json, request_id: '' }]).toEqual([404, { ...none!.json, request_id: '' }]);
    }
  });

  test('answer at the paths of the seeds', async () => {
    const { json: made } = await app.post('/api/v1/chat/conversations', user.key, { agent: 'a' });
    expect((await app.post(`/api/v1/chat/conversations/${made.id}/messages`, user.key, { content: 'hi' })).status).toBe(200);
    for (const path of ['/api/chat/conversations', '/api/v1/conversations', '/api/v1/chat/conversations'])
      expect((await app.get(path, user.key)).json.data[0].id).toBe(made.id);
    for (const path of ['/api/chat/conversations', '/api/v1/conversations'])
      expect((await app.get(`${path}/${made.id}`, user.key)).json.messages).toHaveLength(2);
    expect((await app.get(`/api/v1/chat/conversations/${made.id}/messages`, user.key)).json.data).toHaveLength(2);
    const body = { ...say('hello'), agent: 'a', conversation_id: made.id };
    const reader = await (await EventReader.open(`${app.url}/api/chat`, { key: user.key, body })).end();
    expect([reader.names, reader.said]).toEqual([['start', 'text', 'done'], 'You said: hello']);
    expect((await app.call('DELETE', `/api/v1/chat/conversations/${made.id}`, { key: user.key })).status).toBe(204);
  });

  test('are gone with their user', async () => {
    const other = await app.user();
    await app.agent(other, 'a');
    await app.ready(other);
    const { conversation_id: id } = await chat('to be forgotten', { key: other.key });
    const stream = { ...say('x'), conversation_id: id, resumable: true };
    await (await EventReader.open(`${app.url}/api/v1/agents/a/chat/stream`, { key: other.key, body: stream })).end();
    await app.call('DELETE', `/api/v1/users/${other.id}`, { key: app.adminKey });
    await until(async () => (await app.get(`/api/v1/users/${other.id}`, app.adminKey)).status === 404, 'the user to be gone');
    for (const table of ['conversations', 'turns', 'turn_events'] as const)
      expect(await app.database.db.selectFrom(table).select('user_id').where('user_id', '=', other.id).execute()).toEqual([]);
  });
});
