import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { EventReader } from '../support/event-reader.js';
import { until } from '../support/until.js';

describe('two Berth processes on one Postgres', () => {
  let first: TestApp;
  let second: TestApp;
  let user: Awaited<ReturnType<TestApp['user']>>;
  beforeAll(async () => {
    first = await startApp({ database: 'postgres', runtime: 'process' });
    second = await startApp({ beside: first, runtime: 'process' });
    user = await first.user();
    await first.agent(user, 'a');
    await first.ready(user);
  });
  afterAll(async () => {
    await second.stop();
    await first.stop();
  });

  const say = (content: string, more: object = {}) => ({ messages: [{ role: 'user', content }], ...more });
  const chat = (by: TestApp, content: string, more: object = {}) =>
    by.post('/api/v1/agents/a/chat', user.key, say(content, more));

  test('either one reaches the agent, and a conversation goes on by the other', async () => {
    const { conversation_id } = (await chat(first, 'one')).json;
    expect((await chat(second, 'two', { conversation_id })).json.message).toBe('You said: two');
    expect((await chat(first, '/history', { conversation_id })).json.message).toBe('one | two');
  });

  test('an Idempotency-Key counts for both', async () => {
    const ask = (by: TestApp) => by.post('/api/v1/agents/a/chat', user.key, say('once'), { 'idempotency-key': 'both' });
    const [one, two] = [await ask(first), await ask(second)];
    expect(two.text).toBe(one.text);
    const turns = await first.database.db.selectFrom('turns').select('id').where('id', '=', one.json.turn_id).execute();
    expect(turns).toHaveLength(1);
  });

  test('when one stops in the midst of a turn the client is told, and the other goes on', async () => {
    const reader = await EventReader.open(`${first.url}/api/v1/agents/a/chat/stream`, {
      key: user.key,
      body: say('/slow 10000 20'),
    });
    const { data } = await reader.first('start');
    await reader.first('text');
    await first.leave();
    await reader.end();
    expect((await chat(second, 'still there?')).json.message).toBe('You said: still there?');
    const turn = () =>
      second.database.db.selectFrom('turns').select('status').where('id', '=', data.turn_id).executeTakeFirstOrThrow();
    await until(async () => (await turn()).status !== 'running', 'the turn to be settled');
    const usage = () =>
      second.database.db.selectFrom('usage').select('status').where('turn_id', '=', data.turn_id).executeTakeFirstOrThrow();
    await until(async () => (await usage()).status === 'cut_off', 'the call to be settled');
  });
});
