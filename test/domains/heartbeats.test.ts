import type { Http2ServerResponse } from 'node:http2';
import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { newId } from '../../src/lib/ids.js';
import { startApp, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';
import { textChunk } from '../support/fake-gateway.js';
import { until } from '../support/until.js';

const TASKS = '# Tasks\n\n- Water the plants.';
const MINUTE_MS = 60_000;

interface Beat {
  id: string;
  status: string;
  reason: string | null;
  reply: string | null;
  turn_id: string | null;
  origin: string;
  usage: object | null;
  started_at: string;
  ended_at: string | null;
}

describe.each(databaseKinds)('heartbeats on %s', (database) => {
  let app: TestApp;
  /** The messages that agents were woken with. */
  let heard: { text: string; user: string | undefined; messages: number }[] = [];
  let answer: (response: Http2ServerResponse, text: string) => void;

  const say = (text: string) => (response: Http2ServerResponse) => {
    response.write(textChunk(text, 'stop'));
    response.write(
      `data: ${JSON.stringify({ choices: [], usage: { prompt_tokens: 30, completion_tokens: 2, total_tokens: 32 } })}\n\n`,
    );
    response.end('data: [DONE]\n\n');
  };
  const fail = (message: string, code: string | null) => (response: Http2ServerResponse) =>
    void response.end(`data: ${JSON.stringify({ error: { message, type: 'x', code } })}\n\ndata: [DONE]\n\n`);

  beforeAll(async () => {
    app = await startApp({ database, app: { heartbeats: { everyMs: 50 } } });
    app.gateways.script = ({ body }, response) => {
      heard.push({ text: String(body.messages.at(-1)?.content), user: body.user, messages: body.messages.length });
      answer(response, String(body.messages.at(-1)?.content));
    };
  });
  afterAll(() => app.stop());
  afterEach(() => {
    heard = [];
    answer = say('NO_REPLY');
  });
  answer = say('NO_REPLY');

  type User = Awaited<ReturnType<TestApp['user']>>;

  async function owner(
    agents: string[] = ['a'],
    tasks: string | null = TASKS,
  ): Promise<User & { agents: Record<string, string> }> {
    const user = await app.user();
    const ids: Record<string, string> = {};
    for (const name of agents) ids[name] = (await app.agent(user, name)).id;
    await app.ready(user);
    if (tasks !== null) await template(user, tasks);
    return { ...user, agents: ids };
  }
  const template = async (user: User, tasks: string | null, more: object = {}) => {
    const body = { 'HEARTBEAT.md': tasks, ...more };
    const { status, text } = await app.call('PUT', `/api/v1/users/${user.id}/agent-templates`, { key: user.key, body });
    expect(status, text).toBe(200);
  };
  const config = async (user: User, heartbeat: object) => {
    const patched = await app.call('PATCH', `/api/v1/users/${user.id}/agents/a/config`, { key: user.key, body: { heartbeat } });
    expect(patched.status, patched.text).toBe(200);
  };
  const path = (user: User, agent = 'a') => `/api/v1/users/${user.id}/agents/${agent}/heartbeats`;
  const beats = async (user: User, agent = 'a'): Promise<Beat[]> => (await app.get(path(user, agent), user.key)).json.data;
  const schedule = async (user: User, agent = 'a') => (await app.get(path(user, agent), user.key)).json.schedule;
  const ask = (user: User, agent = 'a') => app.post(path(user, agent), user.key, undefined);
  const planned = (user: User, agent = 'a') => until(async () => (await schedule(user, agent)).next_at !== null, 'a plan');

  /** Makes the agents of the user due, once they are planned. */
  async function due(user: User & { agents: Record<string, string> }): Promise<void> {
    for (const name of Object.keys(user.agents)) await planned(user, name);
    await sql`update heartbeats set next_at = now() - interval '1 second' where user_id = ${user.id}`.execute(app.database.db);
  }
  async function ended(user: User, count: number, agent = 'a'): Promise<Beat[]> {
    let last: Beat[] = [];
    await until(
      async () => (last = await beats(user, agent)).filter(({ status }) => status !== 'running').length >= count,
      () => `${count} beats: ${JSON.stringify(last)}`,
    );
    return last;
  }
  const minutesAhead = async (user: User) => (Date.parse((await schedule(user)).next_at) - Date.now()) / MINUTE_MS;
  const events = async (user: User) => {
    const { rows } = await sql<{ type: string }>`
      select type from events where user_id = ${user.id} and type like 'heartbeat.%' order by seq`.execute(app.database.db);
    return rows.map(({ type }) => type);
  };

  test('an agent is woken on schedule only where HEARTBEAT.md holds something to do', async () => {
    const user = await owner(['a'], null);
    expect(await schedule(user)).toMatchObject({
      enabled: false,
      reason: 'HEARTBEAT.md has nothing to do',
      every_s: 1_800,
      next_at: null,
    });
    await template(user, '# Tasks\n\n<!-- nothing yet -->\n');
    expect((await schedule(user)).enabled).toBe(false);
    await template(user, TASKS);
    await planned(user);
    expect(await minutesAhead(user)).toBeGreaterThan(14);
    expect(await minutesAhead(user)).toBeLessThanOrEqual(30);
    await template(user, null);
    await until(
      async () =>
        (await sql`select 1 from heartbeats where user_id = ${user.id} and next_at is not null`.execute(app.database.db)).rows
          .length === 0,
      'it to be off',
    );
    expect((await schedule(user)).enabled).toBe(false);
  });

  test('another change of the agent does not put its beat off; another pause does, and 0m ends it', async () => {
    const user = await owner();
    await planned(user);
    const { next_at: first } = await schedule(user);
    await template(user, TASKS, { 'SOUL.md': 'New.' });
    const isPlanned = () =>
      until(async () => {
        const { rows } = await sql<{
          ok: boolean;
        }>`select beat_wish = beat_planned as ok from agents where id = ${user.agents['a']}`.execute(app.database.db);
        return rows[0]?.ok;
      }, 'the change to be seen');
    await isPlanned();
    expect((await schedule(user)).next_at).toBe(first);
    await config(user, { every: '4h' });
    await isPlanned();
    expect(await minutesAhead(user)).toBeGreaterThan(119);
    await config(user, { every: '0m' });
    expect(await schedule(user)).toMatchObject({ enabled: false, reason: 'heartbeat.every of its config is 0m', next_at: null });
    await isPlanned();
    expect(heard).toEqual([]);
  });

  test('a beat is a turn with the text of HEARTBEAT.md, apart from all conversations; what was said is kept and told again', async () => {
    const user = await owner();
    answer = say('Watered the ferns.');
    await due(user);
    const [beat] = await ended(user, 1);
    expect(beat).toMatchObject({ status: 'replied', reply: 'Watered the ferns.', origin: 'schedule', reason: null });
    expect(beat?.usage).toEqual({ prompt_tokens: 30, completion_tokens: 2, total_tokens: 32 });
    expect(heard).toHaveLength(1);
    expect(heard[0]).toMatchObject({ user: undefined, messages: 1 });
    expect(heard[0]?.text).toContain('Water the plants.');
    expect(await minutesAhead(user)).toBeGreaterThan(29);

    await due(user);
    await ended(user, 2);
    expect(heard[1]?.text).toContain('Watered the ferns.');
    const { rows } = await sql<{ turns: number; conversations: number; status: string }>`
      select count(*)::int as turns, count(distinct conversation_id)::int as conversations, max(status) as status
      from turns where user_id = ${user.id} and conversation_id is not null`.execute(app.database.db);
    expect(rows).toEqual([{ turns: 2, conversations: 1, status: 'finished' }]);
    expect(await events(user)).toEqual(['heartbeat.replied', 'heartbeat.replied']);
  });

  test('where there is nothing to do the beat is quiet, and the next one is told nothing of it', async () => {
    const user = await owner();
    await due(user);
    expect((await ended(user, 1))[0]).toMatchObject({ status: 'quiet', reply: null, usage: { total_tokens: 32 } });
    await due(user);
    await ended(user, 2);
    expect(heard[1]?.text).toBe(heard[0]?.text);
    expect(await events(user)).toEqual(['heartbeat.quiet', 'heartbeat.quiet']);
  });

  test('one can be asked for: it is answered at once, goes on, and is never the second at a time', async () => {
    const user = await owner();
    let finish: (() => void) | undefined;
    answer = (response) => (finish = () => say('Done.')(response));
    const asked = await ask(user);
    expect(asked.status, asked.text).toBe(202);
    expect(asked.json).toMatchObject({ status: 'running', origin: 'manual', ended_at: null });
    expect((await ask(user)).status).toBe(409);
    await until(() => finish !== undefined, 'the turn to begin');
    // Nor does a beat that comes due meanwhile.
    await due(user);
    finish?.();
    await ended(user, 1);
    await until(async () => (await minutesAhead(user)) > 29, 'the next time to be a whole pause away');
    expect(await beats(user)).toMatchObject([{ id: asked.json.id, status: 'replied', reply: 'Done.' }]);
    expect(await events(user)).toEqual(['heartbeat.requested', 'heartbeat.replied']);
    await template(user, null);
    expect((await ask(user)).json).toMatchObject({ status: 'skipped', reason: 'HEARTBEAT.md has nothing to do' });
    expect((await app.post(path(user, 'never-was'), user.key, undefined)).status).toBe(404);
  });

  test('of those that are asked for at once no more run than may', async () => {
    const names = Array.from({ length: 12 }, (_, i) => `a${i}`);
    const user = await owner(names);
    const held: (() => void)[] = [];
    answer = (response) => void held.push(() => say('NO_REPLY')(response));
    const statuses = (await Promise.all(names.map((name) => ask(user, name)))).map(({ status }) => status);
    expect(statuses.filter((status) => status === 202)).toHaveLength(8);
    expect(statuses.filter((status) => status === 429)).toHaveLength(4);
    await until(() => held.length === 8, 'their turns to begin');
    for (const finish of held) finish();
  });

  test.each<[string, string | null, string]>([
    ['the month is used up', 'insufficient_quota', 'skipped'],
    ['the provider is away', 'unavailable', 'skipped'],
    ['the model fails', 'provider_error', 'failed'],
  ])('where %s the beat ends with the reason, and is not tried again', async (message, code, status) => {
    const user = await owner();
    answer = fail(message, code);
    await due(user);
    expect(await ended(user, 1)).toMatchObject([{ status, reason: message, reply: null }]);
    expect(await minutesAhead(user)).toBeGreaterThan(29);
    expect(heard).toHaveLength(1);
    expect((await beats(user))[0]?.turn_id).toMatch(/^trn_/);
  });

  test('a run whose process died is lost, and the next beat goes on', async () => {
    const user = await owner();
    await planned(user);
    const lost = newId('hbt');
    await sql`insert into heartbeat_runs (id, user_id, agent_id, process_id, origin, status)
      values (${lost}, ${user.id}, ${user.agents['a']}, 'dead', 'schedule', 'running')`.execute(app.database.db);
    // What came due before that is not made up, so the next one is set after it.
    await ended(user, 1);
    await due(user);
    const [second, first] = await ended(user, 2);
    expect(first).toMatchObject({ id: lost, status: 'lost', reason: 'the process that ran it died' });
    expect(second).toMatchObject({ status: 'quiet' });
    expect(await events(user)).toEqual(['heartbeat.lost', 'heartbeat.quiet']);
  });

  test('of a user with many agents two beat at a time, and nobody else waits for them', async () => {
    const many = await owner(['a', 'b', 'c', 'd'], '- crowd');
    const one = await owner(['a'], '- single');
    const held: (() => void)[] = [];
    answer = (response, text) =>
      text.includes('- crowd') ? held.push(() => say('NO_REPLY')(response)) : say('NO_REPLY')(response);
    await due(many);
    await until(() => held.length === 2, 'two to beat');
    await due(one);
    await ended(one, 1);
    expect(held).toHaveLength(2);
    held.splice(0).forEach((finish) => finish());
    await until(() => held.length === 2, 'the other two');
    held.splice(0).forEach((finish) => finish());
    for (const name of ['a', 'b', 'c', 'd']) expect(await ended(many, 1, name)).toHaveLength(1);
  });

  test('outside of its hours an agent is not woken, but at their beginning', async () => {
    const user = await owner();
    const clock = (minutes: number) => new Date(Date.now() + minutes * MINUTE_MS).toISOString().slice(11, 16);
    await config(user, { active_hours: { start: clock(120), end: clock(180) } });
    await due(user);
    await until(async () => (await minutesAhead(user)) > 60, 'the next time to be in the hours');
    expect(Math.abs((await minutesAhead(user)) - 120)).toBeLessThan(2);
    expect(await beats(user)).toEqual([]);
  });

  test('a stopped agent is not woken, and is again once it is started', async () => {
    const user = await owner();
    await planned(user);
    const act = (what: string) => app.post(`/api/v1/users/${user.id}/agents/a/${what}`, user.key, undefined);
    expect((await act('stop')).status).toBeLessThan(300);
    expect(await schedule(user)).toMatchObject({ enabled: false, reason: 'the agent is stopped' });
    expect((await ask(user)).status).toBe(409);
    await act('start');
    await planned(user);
    expect(await beats(user)).toEqual([]);
  });

  test('the list is a page, newest first', async () => {
    const user = await owner(['a'], null);
    for (let i = 0; i < 3; i++) await ask(user);
    const ids = (await beats(user)).map(({ id }) => id);
    expect(ids).toEqual(ids.toSorted().toReversed());
    const first = (await app.get(`${path(user)}?limit=2`, user.key)).json;
    expect(first.data.map(({ id }: Beat) => id)).toEqual(ids.slice(0, 2));
    const rest = (await app.get(`${path(user)}?limit=2&cursor=${first.pagination.next_cursor}`, user.key)).json;
    expect(rest.data.map(({ id }: Beat) => id)).toEqual(ids.slice(2));
    expect((await app.get('/api/agents/a/heartbeats', user.key)).json.data).toHaveLength(3);
  });

  test('nothing of them is left when their user is deleted, also in the midst of one', async () => {
    const user = await owner();
    let begun = false;
    answer = () => (begun = true);
    await ask(user);
    await until(() => begun, 'the turn to begin');
    await app.call('DELETE', `/api/v1/users/${user.id}`, { key: user.key });
    await until(async () => (await app.get(`/api/v1/users/${user.id}`, app.adminKey)).status === 404, 'the user to go');
    const { rows } = await sql<{ n: number }>`
      select (select count(*) from heartbeats where user_id = ${user.id})::int + (select count(*) from heartbeat_runs where user_id = ${user.id})::int as n`.execute(
      app.database.db,
    );
    expect(rows[0]?.n).toBe(0);
  });
});

describe('heartbeats and processes', () => {
  test('of two processes one wakes each agent, once; a stop ends what runs with a word of it', async () => {
    const first = await startApp({ database: 'postgres', app: { heartbeats: { everyMs: 20 } } });
    const second = await startApp({ beside: first, app: { heartbeats: { everyMs: 20 } } });
    try {
      const heard: string[] = [];
      let hold = false;
      for (const { gateways } of [first, second])
        gateways.script = ({ body }, response) => {
          heard.push(String(body.messages.at(-1)?.content));
          if (hold) return;
          response.write(textChunk('NO_REPLY', 'stop'));
          response.end('data: [DONE]\n\n');
        };
      const users = await Promise.all(Array.from({ length: 8 }, () => first.user()));
      for (const user of users) {
        for (const name of ['a', 'b']) await first.agent(user, name);
        await first.ready(user);
        const body = { 'HEARTBEAT.md': `- for ${user.name}` };
        await first.call('PUT', `/api/v1/users/${user.id}/agent-templates`, { key: user.key, body });
      }
      const { db } = first.database;
      const count = async (where: ReturnType<typeof sql>) =>
        (await sql<{ n: number }>`select count(*)::int as n from ${where}`.execute(db)).rows[0]?.n ?? 0;
      await until(async () => (await count(sql`heartbeats where next_at is not null`)) === 16, 'all to be planned');
      for (let round = 1; round <= 3; round++) {
        await sql`update heartbeats set next_at = now()`.execute(db);
        await until(async () => (await count(sql`heartbeat_runs where status = 'quiet'`)) === 16 * round, `round ${round}`);
      }
      expect(heard).toHaveLength(48);
      expect(await count(sql`heartbeat_runs`)).toBe(48);

      hold = true;
      await sql`update heartbeats set next_at = now()`.execute(db);
      await until(() => heard.length === 64, 'all to run');
      await second.leave();
      expect(await count(sql`heartbeat_runs where status = 'running' and process_id not in (select id from processes)`)).toBe(0);
      await first.leave();
      expect(await count(sql`heartbeat_runs where reason = 'Berth was stopped'`)).toBe(16);
    } finally {
      await second.stop();
      await first.stop();
    }
  });
});
