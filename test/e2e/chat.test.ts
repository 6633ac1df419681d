import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { EventReader } from '../support/event-reader.js';
import { until } from '../support/until.js';

let app: TestApp;
let user: Awaited<ReturnType<TestApp['user']>>;
let agent: Awaited<ReturnType<TestApp['agent']>>;

beforeAll(async () => {
  app = await startApp({ runtime: 'process', app: { stream: { keepAliveMs: 100 } } });
  user = await app.user('ada');
  agent = await app.agent(user, 'manager');
  await app.agent(user, 'coder');
  await app.ready(user);
});
afterAll(() => app.stop());

const say = (content: unknown, more: object = {}) => ({ messages: [{ role: 'user', content }], ...more });
const chat = (
  body: unknown,
  { key = user.key, name = 'manager', headers = {} }: { key?: string; name?: string; headers?: Record<string, string> } = {},
) => app.post(`/api/v1/agents/${name}/chat`, key, body, headers);
const stream = (
  body: unknown,
  { key = user.key, name = 'manager', headers = {} }: { key?: string; name?: string; headers?: Record<string, string> } = {},
) => EventReader.open(`${app.url}/api/v1/agents/${name}/chat/stream`, { key, body, headers });
const turnRow = (id: string) => app.database.db.selectFrom('turns').selectAll().where('id', '=', id).executeTakeFirstOrThrow();

describe('an answer in one piece', () => {
  test('has the message, the agent, usage, the conversation and the turn', async () => {
    const answer = await chat(say('hello there'));
    expect(answer.status, answer.text).toBe(200);
    expect(answer.json).toEqual({
      message: 'You said: hello there',
      agent: 'manager',
      conversation_id: expect.stringMatching(/^cnv_/),
      turn_id: expect.stringMatching(/^trn_/),
      finish_reason: 'stop',
      usage: { prompt_tokens: expect.any(Number), completion_tokens: 4, total_tokens: expect.any(Number) },
    });
    expect(await turnRow(answer.json.turn_id)).toMatchObject({
      status: 'finished',
      reply: 'You said: hello there',
      completion_tokens: 4,
      error: null,
    });
  });

  test.each([
    ['emoji', '👩‍👩‍👧 😀 ﷽ \u202e'],
    ['line breaks and quotes', 'a\n\n"b"\r\n\tdata: [DONE]\n\n'],
    ['300 kB', 'wörd'.repeat(60_000)],
  ])('%s comes back as it was sent', async (_, text) => {
    const answer = await chat(say(text));
    expect(answer.status, answer.text.slice(0, 300)).toBe(200);
    expect(answer.json.message).toBe(`You said: ${text}`);
    expect((await turnRow(answer.json.turn_id)).messages).toEqual([{ role: 'user', content: text }]);
  });

  test('an answer too long to be kept is cut and says so; the stream has all of it', async () => {
    const long = 'x'.repeat(1_200_000);
    const answer = await chat(say(long));
    expect(answer.json).toMatchObject({ finish_reason: 'length', usage: { completion_tokens: 3 } });
    expect(answer.json.message).toHaveLength(1_000_000);
    expect((await (await stream(say(long))).end()).said).toBe(`You said: ${long}`);
  });

  test.each<[string, unknown, number, string]>([
    ['no messages', {}, 400, 'messages'],
    ['an empty list', { messages: [] }, 400, 'messages'],
    ['an unknown role', { messages: [{ role: 'robot', content: 'x' }] }, 400, 'messages.0.role'],
    ['a number as content', say(7), 400, 'messages.0.content'],
    [
      'an answer at the end',
      {
        messages: [
          { role: 'user', content: 'a' },
          { role: 'assistant', content: 'b' },
        ],
      },
      400,
      'messages',
    ],
    ['nothing of the user', { messages: [{ role: 'system', content: 'a' }] }, 400, 'messages'],
    ['an unknown field', say('x', { temperature: 1 }), 400, 'temperature'],
    ['a conversation that is no id', say('x', { conversation_id: '../etc' }), 400, 'conversation_id'],
    ['NUL', say('a\0b'), 400, 'messages.0.content'],
    ['malformed JSON', '{"messages": [', 400, 'body'],
  ])('%s is refused, naming the field', async (_, body, status, path) => {
    for (const answer of [await chat(body), await app.post('/api/v1/agents/manager/chat/stream', user.key, body)]) {
      expect([answer.status, answer.json.fields?.[0]?.path]).toEqual([status, path]);
    }
  });

  test('a body over the limit is 413, one under it is not', async () => {
    expect((await chat(say('x'.repeat(9_000_000)))).status).toBe(413);
    const large = await chat({
      messages: [
        { role: 'user', content: 'x'.repeat(7_000_000) },
        { role: 'user', content: 'and now' },
      ],
    });
    expect(large.json.message).toBe('You said: and now');
    const tooMuchToSay = await chat(say('x'.repeat(7_000_000)));
    expect([tooMuchToSay.status, tooMuchToSay.json.error]).toEqual([502, 'The answer of the model is too long.']);
  });

  test("an unknown agent and another user's are the same 404", async () => {
    const other = await app.user();
    const [unknown, foreign] = [await chat(say('x'), { name: 'nobody' }), await chat(say('x'), { key: other.key })];
    const strip = (answer: typeof unknown) => ({ status: answer.status, body: { ...answer.json, request_id: '' } });
    expect(strip(foreign)).toEqual(strip(unknown));
    expect(foreign.status).toBe(404);
  });

  test("an agent's own key chats with it, and with no other", async () => {
    expect((await chat(say('x'), { key: agent.key })).status).toBe(200);
    expect((await chat(say('x'), { key: agent.key, name: 'coder' })).status).toBe(404);
  });
});

describe('a stream', () => {
  test('starts, says, and is done, in typed events', async () => {
    const reader = await (await stream(say('hello there'))).end();
    expect(reader.status).toBe(200);
    expect(reader.headers).toMatchObject({
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache, no-transform',
      'x-accel-buffering': 'no',
    });
    expect(reader.names).toEqual(['start', 'text', 'done']);
    expect(reader.said).toBe('You said: hello there');
    const [start, done] = [await reader.first('start'), await reader.first('done')];
    expect(start.data).toEqual({
      turn_id: expect.stringMatching(/^trn_/),
      conversation_id: expect.stringMatching(/^cnv_/),
      agent: 'manager',
    });
    expect(done.data).toMatchObject({
      ...start.data,
      message: 'You said: hello there',
      finish_reason: 'stop',
      usage: { completion_tokens: 4 },
    });
  });

  test('comes word by word, and is kept alive in between', async () => {
    const reader = await stream(say('/slow 3 450'));
    await reader.first('text');
    expect(reader.said).toBe('w1');
    await reader.end();
    expect(reader.said).toBe('w1 w2 w3');
    expect(reader.comments.filter((comment) => comment.includes('keep-alive')).length).toBeGreaterThanOrEqual(3);
  });

  test('shows the tools: calls and results, parallel ones too', async () => {
    const lines = [0, 1, 2].map((n) => `/tool write_file ${JSON.stringify({ path: `f${n}.txt`, content: `text ${n}` })}`);
    const reader = await (await stream(say(lines.join('\n')))).end();
    expect(reader.names).toEqual(expect.arrayContaining(['start', 'tool_call', 'tool_result', 'text', 'done']));
    const calls = reader.events.filter(({ event }) => event === 'tool_call').map(({ data }) => data);
    const results = reader.events.filter(({ event }) => event === 'tool_result').map(({ data }) => data);
    expect(calls.map((call) => [call.name, JSON.parse(call.arguments).path])).toEqual(
      [0, 1, 2].map((n) => ['write_file', `f${n}.txt`]),
    );
    expect(results.map(({ id }) => id).toSorted()).toEqual(calls.map(({ id }) => id).toSorted());
    expect(results.every((result) => result.ok === true && typeof result.duration_ms === 'number')).toBe(true);
    expect(reader.said).toContain('Tool write_file said:');
    const failing = await (await stream(say('/tool read_file {"path":"not-there.txt"}'))).end();
    expect((await failing.first('tool_result')).data).toMatchObject({ name: 'read_file', ok: false });
    expect((await failing.first('done')).data.finish_reason).toBe('stop');
  });

  test('a turn that would go on for ever stops at its cap of steps', async () => {
    const reader = await (await stream(say('/loop'))).end();
    expect(reader.events.filter(({ event }) => event === 'tool_call')).toHaveLength(15);
    expect((await reader.first('done')).data).toMatchObject({
      finish_reason: 'length',
      message: expect.stringContaining('reached its limit of 16 steps'),
    });
  });

  test('a client that goes away cancels the turn', async () => {
    const reader = await stream(say('/slow 10000 20'));
    const { data } = await reader.first('start');
    await reader.first('text');
    reader.hangUp();
    await until(async () => (await turnRow(data.turn_id)).status === 'cancelled', 'the turn to be cancelled');
    const usage = () =>
      app.database.db.selectFrom('usage').selectAll().where('turn_id', '=', data.turn_id).executeTakeFirstOrThrow();
    await until(async () => (await usage()).status !== 'open', 'the usage row to be settled');
    expect(await usage()).toMatchObject({ status: 'cut_off', counted: true });
  });

  test('so does one that asked for an answer in one piece', async () => {
    const abort = new AbortController();
    const before = await app.database.db.selectFrom('turns').select('id').execute();
    const asked = app.call('POST', '/api/v1/agents/manager/chat', {
      key: user.key,
      body: say('/slow 10000 20'),
      signal: abort.signal,
    });
    asked.catch(() => undefined);
    const known = new Set(before.map(({ id }) => id));
    const mine = async () => (await app.database.db.selectFrom('turns').selectAll().execute()).find(({ id }) => !known.has(id));
    await until(
      async () => (await app.database.db.selectFrom('usage').select('turn_id').where('status', '=', 'open').execute()).length > 0,
      'the provider to be asked',
    );
    abort.abort();
    await until(async () => (await mine())?.status === 'cancelled', 'the turn to be cancelled');
    await expect(asked).rejects.toThrow();
  });
});

test('a gateway that dies in the midst of a turn: the client is told, and the next turn waits for the next gateway', async () => {
  const other = await app.user();
  await app.agent(other, 'a');
  await app.ready(other);
  const body = say('/tool shell {"command":"kill -9 $PPID"}');
  const reader = await (await EventReader.open(`${app.url}/api/v1/agents/a/chat/stream`, { key: other.key, body })).end();
  expect((await reader.first('error')).data).toMatchObject({ code: 'unavailable' });
  const next = await app.post('/api/v1/agents/a/chat', other.key, say('hello again'));
  expect([next.status, next.json.message], next.text).toEqual([200, 'You said: hello again']);
});

describe('a conversation', () => {
  const history = async (more: object, options = {}) => (await chat(say('/history', more), options)).json.message;

  test('goes on by its id, on the agent that has it', async () => {
    const { conversation_id } = (await chat(say('one'))).json;
    const second = await chat(say('two', { conversation_id }));
    expect(second.json.conversation_id).toBe(conversation_id);
    expect(await history({ conversation_id })).toBe('one | two');
    expect(await history({})).toBe('');
  });

  test('of another agent or another user is a 404, like one that never was', async () => {
    const { conversation_id } = (await chat(say('secret'))).json;
    const other = await app.user();
    await app.agent(other, 'manager');
    const never = `cnv_${'0'.repeat(26)}`;
    const answers = [
      await chat(say('/history', { conversation_id }), { name: 'coder' }),
      await chat(say('/history', { conversation_id }), { key: other.key }),
      await chat(say('/history', { conversation_id: never })),
    ];
    for (const answer of answers)
      expect({ ...answer.json, request_id: '' }).toEqual({
        error: 'conversation not found',
        detail: 'conversation not found',
        code: 'not_found',
        request_id: '',
      });
    expect(answers.map(({ status }) => status)).toEqual([404, 404, 404]);
  });

  test('has its turns one after the other, however many are asked for at once', async () => {
    const { conversation_id } = (await chat(say('first'))).json;
    const answers = await Promise.all(['/slow 3 50', 'b', 'c'].map((content) => chat(say(content, { conversation_id }))));
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200]);
    const earlier = (await history({ conversation_id })).split(' | ');
    expect(earlier[0]).toBe('first');
    expect(earlier.slice(1).toSorted()).toEqual(['/slow 3 50', 'b', 'c']);
  });

  test('may begin with earlier messages', async () => {
    const messages = [
      { role: 'system', content: 'be brief' },
      { role: 'user', content: 'one' },
      { role: 'assistant', content: 'ok' },
      { role: 'user', content: '/history' },
    ];
    expect((await chat({ messages })).json.message).toBe('one');
  });

  test('takes pictures and parts', async () => {
    const parts = [
      { type: 'text', text: 'see ' },
      { type: 'image_url', image_url: { url: 'data:image/png;base64,AA==' } },
    ];
    expect((await chat(say(parts))).json.message).toContain('You said: see');
  });
});

describe('an Idempotency-Key', () => {
  test('runs a turn once, in one piece and as a stream', async () => {
    const turns = async () => (await app.database.db.selectFrom('turns').select('id').execute()).length;
    const before = await turns();
    const [first, second] = [
      await chat(say('once'), { headers: { 'idempotency-key': 'k1' } }),
      await chat(say('once'), { headers: { 'idempotency-key': 'k1' } }),
    ];
    expect(second.text).toBe(first.text);
    expect(second.headers.get('idempotency-replayed')).toBe('true');
    const live = await (await stream(say('/words 20'), { headers: { 'idempotency-key': 'k2' } })).end();
    const replayed = await (await stream(say('/words 20'), { headers: { 'idempotency-key': 'k2' } })).end();
    expect(replayed.events.map(({ event, data }) => ({ event, data }))).toEqual(
      live.events.map(({ event, data }) => ({ event, data })),
    );
    expect(replayed.headers['idempotency-replayed']).toBe('true');
    expect((await turns()) - before).toBe(2);
  });

  test('two at once: one runs, the other is told', async () => {
    const answers = await Promise.all([1, 2, 3].map(() => chat(say('/slow 5 50'), { headers: { 'idempotency-key': 'k3' } })));
    expect(answers.map(({ status }) => status).toSorted()).toEqual([200, 409, 409]);
  });

  test('of a turn that was cancelled may be used again', async () => {
    const reader = await stream(say('/slow 10000 20'), { headers: { 'idempotency-key': 'k4' } });
    const { data } = await reader.first('start');
    await reader.first('text');
    reader.hangUp();
    await until(async () => (await turnRow(data.turn_id)).status === 'cancelled', 'the turn to be cancelled');
    await until(
      async () =>
        (await app.post('/api/v1/agents/manager/chat/stream', user.key, say('x'), { 'idempotency-key': 'k4' })).status !== 409,
      'the key to be free',
    );
  });
});
