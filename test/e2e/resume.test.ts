import { createParser } from 'eventsource-parser';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { EventReader, type SeenEvent } from '../support/event-reader.js';
import { until } from '../support/until.js';

let first: TestApp;
let second: TestApp;
let user: Awaited<ReturnType<TestApp['user']>>;
let agent: Awaited<ReturnType<TestApp['agent']>>;

beforeAll(async () => {
  first = await startApp({ database: 'postgres', runtime: 'process' });
  second = await startApp({ beside: first, runtime: 'process' });
  user = await first.user();
  agent = await first.agent(user, 'a');
  await first.agent(user, 'b');
  await first.ready(user);
});
afterAll(async () => {
  await second.stop();
  await first.stop();
});

const say = (content: string, more: object = {}) => ({ messages: [{ role: 'user', content }], resumable: true, ...more });
const begin = (
  content: string,
  { by = first, more = {}, headers = {} }: { by?: TestApp; more?: object; headers?: Record<string, string> } = {},
) => EventReader.open(`${by.url}/api/v1/agents/a/chat/stream`, { key: user.key, body: say(content, more), headers });
const headersOf = (id: string | undefined): Record<string, string> => (id === undefined ? {} : { 'last-event-id': id });
const resume = (turn: string, id: string | undefined, by = second) =>
  EventReader.open(`${by.url}/api/v1/agents/a/turns/${turn}/stream`, { method: 'GET', key: user.key, headers: headersOf(id) });
const resumeAnswer = (turn: string, id: string | undefined, key = user.key) =>
  first.get(`/api/v1/users/${user.id}/agents/a/turns/${turn}/stream`, key, headersOf(id));
const turnOf = async (reader: EventReader): Promise<string> => (await reader.first('start')).data.turn_id;
const turn = async (id: string, by = second) => (await by.get(`/api/v1/agents/a/turns/${id}`, user.key)).json;
const words = (count: number) => Array.from({ length: count }, (_, i) => `w${i + 1}`).join(' ');
const plain = (events: SeenEvent[]) =>
  events.filter(({ event }) => event !== 'waiting').map(({ event, data, id }) => ({ event, data, id }));
const said = (events: { event: string; data: { delta?: string } }[]) =>
  events.map(({ event, data }) => (event === 'text' ? data.delta : '')).join('');

describe('a resumable stream', () => {
  test('has an id on each event, and one that is not resumable has none', async () => {
    const reader = await (await begin('hello there')).end();
    const id = await turnOf(reader);
    expect(plain(reader.events).map((event) => event.event)).toEqual(['start', 'text', 'text', 'text', 'text', 'done']);
    expect(reader.events.map((event) => event.id)).toEqual([
      `${id}:0`,
      ...reader.events.slice(1, -1).map(() => expect.stringMatching(new RegExp(`^${id}:\\d+$`))),
      `${id}:end`,
    ]);
    const other = await (await begin('hello there', { more: { resumable: false } })).end();
    expect(other.events.map((event) => event.id)).toEqual(other.events.map(() => undefined));
  });

  test('cut after every event, on one process and the other in turn, shows each once', async () => {
    const all: SeenEvent[] = [];
    let reader = await begin('/slow 12 60');
    const id = await turnOf(reader);
    for (let cuts = 0; ; cuts++) {
      await reader.until(() => reader.events.length > 0, 'an event');
      all.push(reader.events[0]!);
      reader.hangUp();
      const last = all.at(-1)!;
      if (last.event === 'done') break;
      reader = await resume(id, last.id, cuts % 2 === 0 ? second : first);
    }
    expect(all.map(({ event }) => event)).toEqual(['start', ...Array(12).fill('text'), 'done']);
    expect([said(all), all.at(-1)?.data.message]).toEqual([words(12), words(12)]);
  });

  test('cut at every byte is whole again with what comes after the last id that was read', async () => {
    const whole = await (await begin('/tool list_files')).end();
    const id = await turnOf(whole);
    const rests = new Map<string | undefined, SeenEvent[]>();
    for (let bytes = 0; bytes <= whole.text.length; bytes++) {
      const seen: { event: string; id: string | undefined }[] = [];
      createParser({ onEvent: (event) => seen.push({ event: event.event ?? '', id: event.id }) }).feed(
        whole.text.slice(0, bytes),
      );
      const last = seen.at(-1)?.id;
      if (!rests.has(last)) rests.set(last, (await (await resume(id, last)).end()).events);
      expect([...seen.map((event) => event.id), ...rests.get(last)!.map((event) => event.id)]).toEqual(
        whole.events.map((event) => event.id),
      );
    }
    expect(plain(rests.get(undefined)!)).toEqual(plain(whole.events));
    expect(rests.size).toBe(whole.events.length + 1);
  });

  test('is asked for again by the same call with Last-Event-ID, which begins no second turn', async () => {
    const reader = await begin('/slow 6 60');
    const id = await turnOf(reader);
    const text = await reader.first('text');
    reader.hangUp();
    const rest = await (await begin('/slow 6 60', { by: second, headers: headersOf(text.id) })).end();
    expect([await turnOf(reader), `${text.data.delta}${said(rest.events)}`]).toEqual([id, words(6)]);
    const usage = await first.database.db.selectFrom('usage').select('id').where('turn_id', '=', id).execute();
    expect(usage).toHaveLength(1);
  });

  test('is followed by several at once, on both processes', async () => {
    const reader = await begin('/slow 8 60');
    const id = await turnOf(reader);
    await reader.first('text');
    const others = await Promise.all([
      resume(id, undefined, first),
      resume(id, undefined),
      resume(id, `${id}:1`),
      resume(id, `${id}:0`, first),
    ]);
    await Promise.all([reader, ...others].map((one) => one.end()));
    for (const other of others) expect(said(other.events)).toBe(words(8));
    expect(plain(others[0].events)).toEqual(plain(reader.events));
  });

  test('of a client that reads nothing is written down to its end, and read whole afterwards', async () => {
    const reader = await begin('/words 6000');
    const id = await turnOf(reader);
    reader.pause();
    await until(async () => (await turn(id)).status === 'finished', 'the turn to end', 90_000);
    reader.resume();
    await reader.end(90_000);
    expect(reader.said === words(6_000)).toBe(true);
    const late = await (await resume(id, undefined)).end(90_000);
    expect(late.said === words(6_000)).toBe(true);
  });

  test('whose instance dies ends in an error, also for who comes later', async () => {
    const reader = await (await begin('/tool shell {"command":"kill -9 $PPID"}')).end(60_000);
    expect((await reader.first('error')).data).toMatchObject({
      code: 'upstream_error',
      error: expect.stringContaining('instance'),
    });
    const late = await (await resume(await turnOf(reader), undefined)).end();
    expect(late.names).toEqual(['start', 'tool_call', 'error']);
    expect((await late.first('error')).data.error).toBe((await reader.first('error')).data.error);
    await first.ready(user);
  });

  test('that has ended is resumed at any place: after its end with nothing', async () => {
    const reader = await (await begin('one')).end();
    const id = await turnOf(reader);
    expect((await resumeAnswer(id, `${id}:end`)).status).toBe(204);
    expect((await (await resume(id, `${id}:999`)).end()).names).toEqual(['done']);
  });

  test('is resumed only by who may, and with an id of it', async () => {
    const reader = await (await begin('one')).end();
    const id = await turnOf(reader);
    const other = await first.user();
    await first.agent(other, 'a');
    const never = `trn_${'0'.repeat(26)}`;
    const theirs = (turnId: string) => first.get(`/api/v1/agents/a/turns/${turnId}/stream`, other.key);
    const strip = ({ status, json }: Awaited<ReturnType<typeof theirs>>) => ({ status, ...json, request_id: '' });
    expect(strip(await theirs(id))).toEqual(strip(await theirs(never)));
    expect((await theirs(id)).status).toBe(404);
    expect((await first.get(`/api/v1/agents/b/turns/${id}/stream`, user.key)).status).toBe(404);
    for (const bad of ['x', id, `${id}:-1`, `${id}:1e3`, `${never}:1`, `${id}:99999999999`]) {
      const answer = await resumeAnswer(id, bad);
      expect([answer.status, answer.json.fields?.[0]?.path]).toEqual([400, 'header.Last-Event-ID']);
    }
    const plainTurn = await first.post('/api/v1/agents/a/chat', user.key, { messages: [{ role: 'user', content: 'x' }] });
    expect((await resumeAnswer(plainTurn.json.turn_id, undefined)).status).toBe(409);
    expect((await resumeAnswer(id, undefined, agent.key)).status).toBe(200);
  });
});

describe('a turn by its id', () => {
  test('tells its state, answer, usage and calls', async () => {
    const reader = await (await begin('hello')).end();
    const done = (await reader.first('done')).data;
    expect(await turn(done.turn_id)).toMatchObject({
      turn_id: done.turn_id,
      conversation_id: done.conversation_id,
      agent: 'a',
      status: 'finished',
      resumable: true,
      message: 'You said: hello',
      usage: done.usage,
      calls: [{ model: 'demo/echo', status: 'finished', attempt: 1 }],
    });
  });

  test('is cancelled from another process, with nobody attached, down to the provider', async () => {
    const reader = await begin('/slow 10000 20');
    const id = await turnOf(reader);
    await reader.first('text');
    reader.hangUp();
    const answer = await second.post(`/api/v1/agents/a/turns/${id}/cancel`, user.key, undefined);
    expect([answer.status, answer.json.status]).toEqual([200, 'cancelled']);
    expect(answer.json.message).toMatch(/^w1 /);
    await until(async () => (await turn(id)).calls[0]?.status === 'cut_off', 'the call to be cut off');
    const again = await first.post(`/api/v1/agents/a/turns/${id}/cancel`, user.key, undefined);
    expect(again.json.status).toBe('cancelled');
    expect((await (await resume(id, undefined)).end()).events.at(-1)?.event).toBe('cancelled');
  });

  test('is cancelled where its client waits for one answer, and the client is told', async () => {
    const asked = first.post('/api/v1/agents/a/chat', user.key, { messages: [{ role: 'user', content: '/slow 10000 20' }] });
    const open = () => first.database.db.selectFrom('usage').select('turn_id').where('status', '=', 'open').executeTakeFirst();
    await until(async () => (await open()) !== undefined, 'the model to be asked');
    const id = (await open())!.turn_id!;
    expect((await second.post(`/api/v1/agents/a/turns/${id}/cancel`, user.key, undefined)).json.status).toBe('cancelled');
    const answer = await asked;
    expect([answer.status, answer.json.error]).toEqual([409, 'the turn was cancelled']);
  });

  test('cancelled as it ends is one or the other, and stays so', async () => {
    const outcomes = await Promise.all(
      Array.from({ length: 4 }, async () => {
        const reader = await begin('/slow 2 20');
        const id = await turnOf(reader);
        const answer = await second.post(`/api/v1/agents/a/turns/${id}/cancel`, user.key, undefined);
        await reader.end();
        return [
          answer.json.status,
          (await turn(id)).status,
          reader.events.at(-1)?.event === 'done' ? 'finished' : reader.events.at(-1)?.event,
        ];
      }),
    );
    for (const outcome of outcomes) expect(['finished', 'cancelled'].map((one) => Array(3).fill(one))).toContainEqual(outcome);
  });
});

describe('an Idempotency-Key', () => {
  test('joins a resumable turn that runs, on another process too, and replays it afterwards', async () => {
    const headers = { 'idempotency-key': 'joined' };
    const reader = await begin('/slow 8 60', { headers });
    await reader.first('text');
    const joined = await begin('/slow 8 60', { headers, by: second });
    await Promise.all([reader.end(), joined.end()]);
    const replayed = await (await begin('/slow 8 60', { headers, by: second })).end();
    expect(plain(joined.events)).toEqual(plain(reader.events));
    expect(plain(replayed.events)).toEqual(plain(reader.events));
    expect((await begin('another', { headers })).status).toBe(422);
  });

  test('names the turn that runs, where that cannot be joined', async () => {
    const body = { messages: [{ role: 'user', content: '/slow 20 50' }] };
    const headers = { 'idempotency-key': 'named' };
    const asked = first.post('/api/v1/agents/a/chat', user.key, body, headers);
    const row = () =>
      first.database.db
        .selectFrom('turns')
        .select('id')
        .where('kept', '=', true)
        .where('resumable', '=', false)
        .where('status', '=', 'running')
        .executeTakeFirst();
    await until(async () => (await row()) !== undefined, 'the turn to begin');
    const { id } = (await row())!;
    const told = await second.post('/api/v1/agents/a/chat', user.key, body, headers);
    expect([told.status, told.headers.get('berth-turn')]).toEqual([409, id]);
    expect(told.json.error).toContain(id);
    const answer = await asked;
    const again = await second.post('/api/v1/agents/a/chat', user.key, body, headers);
    expect([answer.status, again.json, again.headers.get('idempotency-replayed')]).toEqual([200, answer.json, 'true']);
  });
});

test('the outbox tells of turns and tools, and nothing of what was said', async () => {
  const reader = await (await begin('/tool list_files')).end();
  const { turn_id, conversation_id } = (await reader.first('start')).data;
  const rows = await first.database.db
    .selectFrom('events')
    .select(['type', 'actor', 'payload'])
    .where('user_id', '=', user.id)
    .orderBy('seq')
    .execute();
  const mine = rows.filter(({ payload }) => payload['turn_id'] === turn_id);
  const names = { turn_id, conversation_id, agent_id: agent.id };
  const usage = { prompt_tokens: expect.any(Number), completion_tokens: expect.any(Number) };
  expect(mine).toEqual([
    { type: 'turn.started', actor: expect.stringMatching(/^user:/), payload: names },
    { type: 'tool.called', actor: 'agent', payload: { ...names, tool: 'list_files' } },
    { type: 'turn.finished', actor: 'chat', payload: { ...names, tools: 1, ...usage } },
  ]);
});

describe('a message while a turn of its conversation runs', () => {
  const slow = async () => {
    const reader = await begin('/slow 10000 20');
    const { conversation_id } = (await reader.first('start')).data;
    await reader.first('text');
    return { reader, id: await turnOf(reader), conversation_id };
  };
  const send = (by: TestApp, content: string, more: object) =>
    by.post('/api/v1/agents/a/chat', user.key, { messages: [{ role: 'user', content }], ...more });

  test('may end that turn, on whatever process it runs', async () => {
    const { reader, conversation_id } = await slow();
    const answer = await send(second, 'now this', { conversation_id, on_busy: 'interrupt' });
    expect(answer.json.message).toBe('You said: now this');
    await reader.end();
    expect(reader.events.at(-1)?.event).toBe('cancelled');
    expect((await send(first, '/history', { conversation_id })).json.message).toBe('/slow 10000 20 | now this');
  });

  test('may refuse itself, and of several at once just one begins', async () => {
    const { reader, id, conversation_id } = await slow();
    for (const by of [first, second]) {
      const answer = await send(by, 'x', { conversation_id, on_busy: 'reject' });
      expect([answer.status, answer.headers.get('berth-turn')]).toEqual([409, id]);
    }
    await first.post(`/api/v1/agents/a/turns/${id}/cancel`, user.key, undefined);
    await reader.end();
    const refused: string[] = [];
    const answers = [first, second, first, second].map(async (by) => {
      const answer = await send(by, '/slow 10000 20', { conversation_id, on_busy: 'reject' });
      const turnId = answer.headers.get('berth-turn');
      if (turnId !== null) refused.push(turnId);
      return answer;
    });
    await until(() => refused.length === 3, 'all but one to be refused');
    expect(new Set(refused).size).toBe(1);
    await first.post(`/api/v1/agents/a/turns/${refused[0]}/cancel`, user.key, undefined);
    const errors = (await Promise.all(answers)).map(({ json }) => json.error);
    expect(errors.filter((error) => error === 'the turn was cancelled')).toHaveLength(1);
  });

  test('waits its turn, with so many others and no more', async () => {
    const { conversation_id } = await slow();
    const waiting = [];
    for (let i = 0; i < 15; i++) {
      const reader = await begin(`m${i}`, { by: i % 2 === 0 ? second : first, more: { conversation_id } });
      await reader.first('start');
      waiting.push(reader);
    }
    const answer = await send(second, 'too many', { conversation_id });
    expect([answer.status, answer.headers.get('retry-after')]).toEqual([429, '5']);
    const [running] = await first.database.db
      .selectFrom('turns')
      .select('id')
      .where('conversation_id', '=', conversation_id)
      .orderBy('id')
      .limit(1)
      .execute();
    await second.post(`/api/v1/agents/a/turns/${running!.id}/cancel`, user.key, undefined);
    for (const reader of waiting) await reader.end(60_000);
    const history = (await send(first, '/history', { conversation_id })).json.message.split(' | ');
    expect(history).toEqual(['/slow 10000 20', ...waiting.map((_, i) => `m${i}`)]);
  });

  test('is met as the config of its agent says, unless it says so itself: plain, streamed and by an OpenAI client', async () => {
    const config = (onBusy: string | null) =>
      first.call('PATCH', '/api/v1/agents/a/config', { key: user.key, body: { on_busy: onBusy } });
    expect((await config('reject')).json).toMatchObject({ applies: 'live', config: { on_busy: 'reject' } });
    const { reader, id, conversation_id } = await slow();
    const plainly = await send(second, 'x', { conversation_id });
    const streamed = await (await begin('x', { by: second, more: { conversation_id, resumable: false } })).end();
    expect([plainly.status, plainly.headers.get('berth-turn')]).toEqual([409, id]);
    expect(streamed.events.at(-1)).toMatchObject({ event: 'error', data: { code: 'conflict' } });
    expect((await send(second, 'now this', { conversation_id, on_busy: 'interrupt' })).json.message).toBe('You said: now this');
    await reader.end();

    const ask = (content: string, more: object = {}) =>
      second.post('/v1/chat/completions', user.key, {
        model: 'berth/a',
        user: 'me',
        messages: [{ role: 'user', content }],
        ...more,
      });
    const running = EventReader.open(`${first.url}/v1/chat/completions`, {
      key: user.key,
      body: { model: 'berth/a', user: 'me', stream: true, messages: [{ role: 'user', content: '/slow 10000 20' }] },
    });
    const chunks = await running;
    await chunks.until(() => chunks.text.includes('w1'), 'its first word');
    const refused = await ask('x');
    expect([refused.status, refused.json.error.message]).toEqual([
      409,
      expect.stringContaining('a turn of this conversation is running'),
    ]);
    expect((await ask('x', { on_busy: 'panic' })).status).toBe(400);
    expect((await config('interrupt')).status).toBe(200);
    expect((await ask('now that')).json.choices[0].message.content).toBe('You said: now that');
    await chunks.end();
    expect((await config(null)).json.config.on_busy).toBe('queue');
  });

  test('says so by a word that is known', async () => {
    const answer = await send(first, 'x', { on_busy: 'panic' });
    expect([answer.status, answer.json.fields?.[0]?.path]).toEqual([400, 'on_busy']);
  });
});

describe('a stop of the process that runs a turn', () => {
  test('ends the stream without a last word; another process goes on, the lost model call made again and metered for itself', async () => {
    const reader = await begin('/slow 40 50');
    const id = await turnOf(reader);
    await reader.until(() => reader.said.length > 10, 'some words');
    await first.leave();
    await reader.end();
    expect(reader.names).toEqual(['start', 'text']);
    const rest = await (await resume(id, reader.events.at(-1)?.id)).end(60_000);
    const all = [...reader.events, ...rest.events];
    const restarted = await rest.first('restarted');
    const voidAfter = restarted.data.void_after;
    expect(voidAfter).toMatch(new RegExp(`^${id}:\\d+$`));
    expect(said(all.slice(all.indexOf(restarted)))).toBe(words(40));
    expect((await rest.first('done')).data.message).toBe(words(40));
    const { calls, status } = await turn(id);
    expect([status, calls.map((call: { attempt: number; status: string }) => [call.attempt, call.status])]).toEqual([
      'finished',
      [
        [1, 'cut_off'],
        [2, 'finished'],
      ],
    ]);
  });
});
