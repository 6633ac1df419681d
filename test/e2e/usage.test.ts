import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Usage } from '../../src/domains/usage/usage.js';
import { newId } from '../../src/lib/ids.js';
import { startApp, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';
import { EventReader } from '../support/event-reader.js';
import { until } from '../support/until.js';

type Sums = Record<'calls' | 'failed' | 'prompt_tokens' | 'completion_tokens' | 'total_tokens' | 'counted_tokens', number>;
const NONE: Sums = { calls: 0, failed: 0, prompt_tokens: 0, completion_tokens: 0, total_tokens: 0, counted_tokens: 0 };

function sum(rows: Sums[]): Sums {
  return rows.reduce(
    (all, row) =>
      Object.fromEntries(Object.keys(NONE).map((key) => [key, all[key as keyof Sums] + row[key as keyof Sums]])) as Sums,
    NONE,
  );
}

describe.each(databaseKinds)('the ledger on %s', (kind) => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp({ database: kind });
  });
  afterAll(() => app.stop());

  async function insert(
    userId: string,
    row: {
      agent?: string;
      model?: string;
      status?: 'open' | 'finished' | 'failed' | 'cut_off';
      prompt?: number;
      completion?: number;
      counted?: boolean;
      at?: string;
      process?: string;
    },
  ): Promise<string> {
    const id = newId('use');
    const {
      agent = 'a',
      model = 'demo/echo',
      status = 'finished',
      prompt = 10,
      completion = 5,
      counted = false,
      at = 'now()',
      process = 'p1',
    } = row;
    await app.database.db
      .insertInto('usage')
      .values({
        id,
        user_id: userId,
        deployment_id: 'dep_x',
        instance_id: 'ins_x',
        agent_id: `agt_${agent}`,
        agent,
        turn_id: null,
        process_id: process,
        model,
        provider: model.split('/')[0]!,
        status,
        prompt_tokens: prompt,
        completion_tokens: completion,
        counted,
        error: null,
        ended_at: null,
        started_at: sql<Date>`${sql.raw(at)}`,
      })
      .execute();
    return id;
  }

  const usageOf = async (user: { id: string; key: string }) => (await app.get(`/api/v1/users/${user.id}/usage`, user.key)).json;

  test('totals are the sums of agents, of models and of days; nothing of other months or users is in them', async () => {
    const [user, other] = [await app.user(), await app.user()];
    const monthBegan = `date_trunc('month', now() at time zone 'utc') at time zone 'utc'`;
    const days = [monthBegan, 'now()', `${monthBegan} + (now() - (${monthBegan})) / 2`];
    let made = 0;
    for (const agent of ['a', 'b', 'ä']) {
      for (const model of ['demo/echo', 'openai/gpt-x']) {
        for (const [n, at] of days.entries()) {
          await insert(user.id, {
            agent,
            model,
            at,
            prompt: 10 + made,
            completion: n,
            counted: made % 3 === 0,
            status: (['finished', 'failed', 'cut_off'] as const)[made % 3]!,
          });
          made += 1;
        }
      }
    }
    await insert(user.id, { at: `${monthBegan} - interval '1 second'`, prompt: 1_000_000 });
    await insert(other.id, { prompt: 2_000_000 });
    const { totals, by_agent, by_model, by_day, month } = await usageOf(user);
    expect(month).toBe(new Date().toISOString().slice(0, 7));
    expect(totals).toEqual({
      calls: made,
      failed: 12,
      prompt_tokens: 18 * 10 + (17 * 18) / 2,
      completion_tokens: 18,
      total_tokens: 351,
      counted_tokens: expect.any(Number),
    });
    for (const part of [by_agent, by_model, by_day]) expect(sum(part)).toEqual(totals);
    expect(by_agent.map((row: { agent: string }) => row.agent).toSorted()).toEqual(['a', 'b', 'ä']);
    expect(by_model.map((row: { model: string }) => row.model)).toEqual(['demo/echo', 'openai/gpt-x']);
    expect(by_day.map((row: { day: string }) => row.day)).toEqual(by_day.map((row: { day: string }) => row.day).toSorted());
    expect((await usageOf(other)).totals).toMatchObject({ calls: 1, prompt_tokens: 2_000_000 });
  });

  test('what Berth counted itself is marked, and a call in flight counts no tokens yet', async () => {
    const user = await app.user();
    await insert(user.id, { prompt: 7, completion: 3, counted: true });
    await insert(user.id, { prompt: 1, completion: 1 });
    await insert(user.id, { status: 'open', prompt: 0, completion: 0 });
    expect((await usageOf(user)).totals).toEqual({
      calls: 3,
      failed: 0,
      prompt_tokens: 8,
      completion_tokens: 4,
      total_tokens: 12,
      counted_tokens: 10,
    });
  });

  test('a call that takes the month over a threshold is an event, once for each', async () => {
    const user = await app.user(undefined, 'free');
    const { limit_tokens: limit } = await usageOf(user);
    const ledger = new Usage({ db: app.database.db, processId: 'p1' });
    const settle = async (share: number) => {
      const id = await insert(user.id, { status: 'open' });
      const usage = { promptTokens: Math.round(limit * share), completionTokens: 0, counted: false };
      await ledger.settle(id, { status: 'finished', usage });
      await ledger.settle(id, { status: 'finished', usage });
    };
    const crossed = async () => {
      const { json } = await app.get(`/api/v1/users/${user.id}/events?type=usage.*`, user.key);
      return json.data.map(({ data }: { data: { percent: number } }) => data.percent);
    };
    await settle(0.5);
    expect(await crossed()).toEqual([]);
    await settle(0.35);
    await settle(0.1);
    expect(await crossed()).toEqual([80]);
    await settle(1);
    await settle(1);
    expect(await crossed()).toEqual([80, 100]);
  });

  test('a user without any has zeros, and the limit of the tier', async () => {
    const user = await app.user(undefined, 'free');
    const { tokens_per_month } = await app.database.db
      .selectFrom('tiers')
      .select('tokens_per_month')
      .where('name', '=', 'free')
      .executeTakeFirstOrThrow();
    expect(await usageOf(user)).toEqual({
      month: expect.any(String),
      limit_tokens: Number(tokens_per_month),
      totals: NONE,
      by_agent: [],
      by_model: [],
      by_day: [],
    });
  });

  test('rows that dead processes left open are settled as cut off, once; those of living ones are not', async () => {
    const user = await app.user();
    const { db } = app.database;
    const [dead, living] = [`p${user.id.slice(-8)}d`, `p${user.id.slice(-8)}l`];
    await db
      .insertInto('processes')
      .values([
        { id: dead, heartbeat_at: sql<Date>`now() - interval '2 minutes'` },
        { id: living, heartbeat_at: sql<Date>`now()` },
      ])
      .execute();
    const ids = [];
    for (const process of [dead, living, `${dead}-gone`])
      ids.push(await insert(user.id, { status: 'open', prompt: 0, completion: 0, process }));
    const usage = new Usage({ db, processId: living });
    await Promise.all([usage.settleAbandoned(), usage.settleAbandoned()]);
    const rows = await db.selectFrom('usage').selectAll().where('id', 'in', ids).execute();
    const cut = { status: 'cut_off', counted: true, error: 'the process that made the call died', ended_at: expect.any(Date) };
    expect(Object.fromEntries(rows.map((row) => [row.id, row]))).toMatchObject({
      [ids[0]!]: cut,
      [ids[1]!]: { status: 'open', ended_at: null },
      [ids[2]!]: cut,
    });
    // Whoever thought it dead too early changes nothing by settling late.
    await usage.settle(ids[0]!, { status: 'finished', usage: { promptTokens: 5, completionTokens: 5, counted: false } });
    expect((await db.selectFrom('usage').select('status').where('id', '=', ids[0]!).executeTakeFirstOrThrow()).status).toBe(
      'cut_off',
    );
  });

  test('tokens are added to the month exactly once, many at a time, each to its own user', async () => {
    const users = [await app.user(), await app.user()];
    const usage = new Usage({ db: app.database.db, processId: 'p1' });
    const settle = async (user: { id: string }, n: number) => {
      const id = await insert(user.id, { status: 'open', prompt: 0, completion: 0 });
      const outcome = { status: 'finished' as const, usage: { promptTokens: n, completionTokens: 1, counted: false } };
      await Promise.all([usage.settle(id, outcome), usage.settle(id, outcome)]);
    };
    await Promise.all(users.flatMap((user, u) => [1, 2, 3, 4].map((n) => settle(user, (u + 1) * 100 + n))));
    const months = await app.database.db
      .selectFrom('usage_months')
      .selectAll()
      .where(
        'user_id',
        'in',
        users.map(({ id }) => id),
      )
      .execute();
    expect(Object.fromEntries(months.map((row) => [row.user_id, Number(row.tokens)]))).toEqual({
      [users[0]!.id]: 414,
      [users[1]!.id]: 814,
    });
  });

  test("an agent's key may not read it, an unknown user has none", async () => {
    const user = await app.user();
    const agent = await app.agent(user, 'a');
    expect((await app.get('/api/v1/usage', agent.key)).status).toBe(403);
    expect((await app.get('/api/v1/users/nobody/usage', app.adminKey)).status).toBe(404);
    expect((await app.get(`/api/v1/users/${(await app.user()).id}/usage`, user.key)).status).toBe(404);
  });
});

describe('the budget', () => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp({ runtime: 'process' });
  });
  afterAll(() => app.stop());

  const body = { messages: [{ role: 'user', content: 'one two three' }] };

  test('of the tier is held in every kind of chat, said clearly, and lifted at once by another tier', async () => {
    const [user, other] = [await app.user('poor', 'free'), await app.user('neighbour', 'free')];
    for (const one of [user, other]) await app.agent(one, 'a');
    await Promise.all([app.ready(user), app.ready(other)]);
    const chat = (by: { key: string }) => app.post('/api/v1/agents/a/chat', by.key, body);
    expect((await chat(user)).status).toBe(200);
    const { totals, limit_tokens } = (await app.get('/api/v1/usage', user.key)).json;
    expect(totals).toMatchObject({ calls: 1, completion_tokens: 5, counted_tokens: 0 });
    const spent = await app.database.db
      .selectFrom('usage_months')
      .select('tokens')
      .where('user_id', '=', user.id)
      .executeTakeFirstOrThrow();
    expect(Number(spent.tokens)).toBe(totals.total_tokens);

    await app.database.db.updateTable('usage_months').set({ tokens: limit_tokens }).where('user_id', '=', user.id).execute();
    const refused = await chat(user);
    expect([refused.status, refused.json.code, refused.json.error]).toEqual([
      403,
      'limit_exceeded',
      `the ${limit_tokens} tokens a month of tier free are used up`,
    ]);
    const reader = await (await EventReader.open(`${app.url}/api/v1/agents/a/chat/stream`, { key: user.key, body })).end();
    expect((await reader.first('error')).data).toMatchObject({
      code: 'limit_exceeded',
      error: expect.stringContaining('used up'),
    });
    expect((await chat(other)).status).toBe(200);
    // Nothing was asked of a provider, so there is no row.
    expect((await app.get('/api/v1/usage', user.key)).json.totals.calls).toBe(1);

    await app.call('PUT', `/api/v1/users/${user.id}/tier`, { key: app.adminKey, body: { tier: 'pro' } });
    expect((await chat(user)).status).toBe(200);
  });

  test('each step of a turn is a call of its own, by agent and turn; an agent that is gone stays in the sums', async () => {
    const user = await app.user();
    await app.agent(user, 'a');
    await app.agent(user, 'b');
    await app.ready(user);
    const answer = await app.post('/api/v1/agents/a/chat', user.key, {
      messages: [{ role: 'user', content: '/tool list_files {}' }],
    });
    await app.post('/api/v1/agents/b/chat', user.key, { messages: [{ role: 'user', content: '/error upstream 2' }] });
    await until(async () => (await app.get('/api/v1/usage', user.key)).json.totals.calls === 3, 'three calls');
    const rows = await app.database.db.selectFrom('usage').selectAll().where('turn_id', '=', answer.json.turn_id).execute();
    expect(rows.map((row) => row.status)).toEqual(['finished', 'finished']);
    expect(rows.reduce((all, row) => all + Number(row.prompt_tokens) + Number(row.completion_tokens), 0)).toBe(
      answer.json.usage.total_tokens,
    );
    await app.call('DELETE', '/api/v1/agents/b', { key: user.key });
    const { totals, by_agent } = (await app.get('/api/v1/usage', user.key)).json;
    expect(totals).toMatchObject({ calls: 3, failed: 1 });
    expect(by_agent.map((row: { agent: string; calls: number }) => [row.agent, row.calls]).toSorted()).toEqual([
      ['a', 2],
      ['b', 1],
    ]);
  });
});
