import OpenAI, {
  APIError,
  AuthenticationError,
  BadRequestError,
  InternalServerError,
  NotFoundError,
  RateLimitError,
} from 'openai';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { EventReader } from '../support/event-reader.js';
import { until } from '../support/until.js';

let app: TestApp;
let user: Awaited<ReturnType<TestApp['user']>>;
let agent: Awaited<ReturnType<TestApp['agent']>>;
let client: OpenAI;

beforeAll(async () => {
  app = await startApp({ runtime: 'process' });
  user = await app.user('ada');
  agent = await app.agent(user, 'manager');
  await app.agent(user, 'coder');
  await app.ready(user);
  client = clientWith(user.key);
});
afterAll(() => app.stop());

const clientWith = (apiKey: string) => new OpenAI({ baseURL: `${app.url}/v1`, apiKey, maxRetries: 0 });
const say = (content: string, model = 'berth/manager') => ({ model, messages: [{ role: 'user' as const, content }] });
const text = (completion: OpenAI.ChatCompletion) => completion.choices[0]?.message.content;

describe('the official openai client', () => {
  test('chats', async () => {
    const completion = await client.chat.completions.create(say('hello there'));
    expect(completion).toMatchObject({
      id: expect.stringMatching(/^chatcmpl-/),
      object: 'chat.completion',
      created: expect.any(Number),
      model: 'berth/manager',
      choices: [
        {
          index: 0,
          message: { role: 'assistant', content: 'You said: hello there', refusal: null },
          logprobs: null,
          finish_reason: 'stop',
        },
      ],
      usage: { completion_tokens: 4 },
    });
    const { usage } = completion;
    expect(usage?.total_tokens).toBe(usage!.prompt_tokens + usage!.completion_tokens);
  });

  test('streams, with usage only where it asks for it', async () => {
    let said = '';
    for await (const chunk of await client.chat.completions.create({ ...say('hello there'), stream: true })) {
      expect(chunk).not.toHaveProperty('usage');
      expect(chunk.choices).toHaveLength(1);
      said += chunk.choices[0]?.delta.content ?? '';
    }
    expect(said).toBe('You said: hello there');
    const final = await client.chat.completions
      .stream({ ...say('hello there'), stream_options: { include_usage: true } })
      .finalChatCompletion();
    expect([text(final), final.choices[0]?.finish_reason, final.usage?.completion_tokens]).toEqual([
      'You said: hello there',
      'stop',
      4,
    ]);
  });

  test('gets chunks byte for byte as OpenAI sends them', async () => {
    const body = { ...say('hi'), stream: true, stream_options: { include_usage: true } };
    const reader = await (await EventReader.open(`${app.url}/v1/chat/completions`, { key: user.key, body })).end();
    expect(reader.headers['content-type']).toMatch(/^text\/event-stream/);
    expect(reader.text.endsWith('data: [DONE]\n\n')).toBe(true);
    expect(new Set(reader.events.map(({ event }) => event))).toEqual(new Set(['message']));
    const chunks = reader.events.slice(0, -1).map(({ data }) => data);
    const [first] = chunks;
    expect(first).toEqual({
      id: expect.stringMatching(/^chatcmpl-/),
      object: 'chat.completion.chunk',
      created: expect.any(Number),
      model: 'berth/manager',
      choices: [{ index: 0, delta: { role: 'assistant', content: '', refusal: null }, logprobs: null, finish_reason: null }],
      usage: null,
    });
    const finish = chunks.at(-2);
    expect(finish.choices).toEqual([{ index: 0, delta: {}, logprobs: null, finish_reason: 'stop' }]);
    expect(chunks.at(-1)).toMatchObject({
      choices: [],
      usage: { prompt_tokens: expect.any(Number), completion_tokens: 3, total_tokens: expect.any(Number) },
    });
    for (const chunk of chunks) expect([chunk.id, chunk.created, chunk.model]).toEqual([first.id, first.created, first.model]);
    for (const chunk of chunks.slice(1, -2))
      expect(chunk.choices[0]).toMatchObject({ index: 0, delta: { content: expect.any(String) }, finish_reason: null });
  });

  test('without user is stateless, and sends its history along', async () => {
    await client.chat.completions.create(say('one'));
    const messages = [
      { role: 'system' as const, content: 'be brief' },
      { role: 'user' as const, content: 'two' },
      { role: 'assistant' as const, content: 'ok' },
      { role: 'user' as const, content: '/history' },
    ];
    expect(text(await client.chat.completions.create({ model: 'berth/manager', messages }))).toBe('two');
  });

  test('with user goes on where it was, on that agent and for that user alone; its system message is heard', async () => {
    const ask = (content: string, more: object = {}, by = client) =>
      by.chat.completions.create({ ...say(content), user: 'visitor-1', ...more });
    await ask('one');
    const messages = [
      { role: 'user' as const, content: 'one' },
      { role: 'assistant' as const, content: 'You said: one' },
      { role: 'user' as const, content: 'two' },
    ];
    await client.chat.completions.create({ model: 'berth/manager', user: 'visitor-1', messages });
    expect(text(await ask('/history'))).toBe('one | two');
    expect(text(await ask('/history', { user: 'visitor-2' }))).toBe('');
    expect(text(await ask('/history', { model: 'berth/coder' }))).toBe('');
    const other = await app.user();
    await app.agent(other, 'manager');
    expect(text(await ask('/history', {}, clientWith(other.key)))).toBe('');
    const system = [
      { role: 'system' as const, content: 'Speak like a pirate.' },
      { role: 'user' as const, content: '/system' },
    ];
    expect(text(await client.chat.completions.create({ model: 'berth/manager', user: 'visitor-1', messages: system }))).toContain(
      'Speak like a pirate.',
    );
  });

  test('with a user that is new, many at once: one conversation', async () => {
    const ask = (content: string) => client.chat.completions.create({ ...say(content), user: 'crowd' });
    await Promise.all(['a', 'b', 'c', 'd'].map(ask));
    expect(
      text(await ask('/history'))
        ?.split(' | ')
        .toSorted(),
    ).toEqual(['a', 'b', 'c', 'd']);
  });

  test('passes its sampling on, and refuses what an agent cannot do by the name of the field', async () => {
    expect(
      text(
        await client.chat.completions.create({
          ...say('x'),
          temperature: 0.1,
          top_p: 1,
          max_tokens: 100,
          stop: ['never'],
          seed: 1,
        }),
      ),
    ).toBe('You said: x');
    const tools = [{ type: 'function' as const, function: { name: 'f', parameters: {} } }];
    const refused: [object, string][] = [
      [{ tools }, 'tools'],
      [{ n: 2 }, 'n'],
      [{ temperature: 9 }, 'temperature'],
      [{ user: 'x'.repeat(300) }, 'user'],
      [{ messages: [] }, 'messages'],
    ];
    for (const [more, param] of refused) {
      const error = await client.chat.completions.create({ ...say('x'), ...more }).catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(BadRequestError);
      expect(error).toMatchObject({ status: 400, param, type: 'invalid_request_error' });
    }
  });

  test('lists and retrieves models: agents by their names', async () => {
    const ids = async (by: OpenAI) => (await by.models.list()).data.map(({ id }) => id).toSorted();
    expect(await ids(client)).toEqual(['berth/coder', 'berth/manager']);
    expect(await ids(clientWith(agent.key))).toEqual(['berth/manager']);
    expect(await client.models.retrieve('berth/manager')).toEqual({
      id: 'berth/manager',
      object: 'model',
      created: expect.any(Number),
      owned_by: 'ada',
    });
    await expect(client.models.retrieve('berth/nobody')).rejects.toBeInstanceOf(NotFoundError);
    await expect(clientWith(agent.key).models.retrieve('berth/coder')).rejects.toBeInstanceOf(NotFoundError);
  });

  test('of an admin names user and agent', async () => {
    const admin = clientWith(app.adminKey);
    expect(text(await admin.chat.completions.create(say('hi', 'ada/manager')))).toBe('You said: hi');
    expect(text(await admin.chat.completions.create(say('hi', `${user.id}/${agent.id}`)))).toBe('You said: hi');
    expect((await admin.models.list()).data.map(({ id }) => id)).toEqual(expect.arrayContaining(['ada/coder', 'ada/manager']));
    expect(await admin.models.retrieve('ada/manager')).toMatchObject({ id: 'ada/manager', owned_by: 'ada' });
    await expect(admin.chat.completions.create(say('hi'))).rejects.toBeInstanceOf(NotFoundError);
    await expect(admin.chat.completions.create(say('hi', 'nobody/manager'))).rejects.toBeInstanceOf(NotFoundError);
  });

  test("sees another user's agent as one that never was", async () => {
    const stranger = await app.user();
    const errors = [];
    for (const model of ['ada/manager', `${user.id}/manager`, 'berth/manager', 'berth/never']) {
      errors.push(
        await clientWith(stranger.key)
          .chat.completions.create(say('hi', model))
          .catch((thrown: unknown) => thrown),
      );
    }
    for (const error of errors)
      expect(error).toMatchObject({ status: 404, code: 'model_not_found', type: 'invalid_request_error' });
    expect(errors.every((error) => error instanceof NotFoundError)).toBe(true);
  });

  test('sees its errors as its own classes', async () => {
    await expect(clientWith('sk-nonsense').chat.completions.create(say('x'))).rejects.toBeInstanceOf(AuthenticationError);
    await expect(client.chat.completions.create(say('x', 'gpt-4'))).rejects.toBeInstanceOf(NotFoundError);
    await expect(client.chat.completions.create(say('/error rate_limited'))).rejects.toBeInstanceOf(RateLimitError);
    await expect(client.chat.completions.create(say('/error bad_request'))).rejects.toBeInstanceOf(BadRequestError);
    await expect(client.chat.completions.create(say('/error auth'))).rejects.toBeInstanceOf(InternalServerError);
    const stream = await client.chat.completions.create({ ...say('/error upstream 3'), stream: true });
    const read = async () => {
      for await (const _ of stream);
    };
    const error = await read().catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(APIError);
    expect(error).toMatchObject({ message: 'The demo model was asked for the error upstream', code: 'upstream_error' });
  });

  test('is told of its rate limit, and when to come back', async () => {
    const poor = await app.user(undefined, 'free');
    await app.agent(poor, 'a');
    const { requests_per_minute: limit } = await app.database.db
      .selectFrom('tiers')
      .select('requests_per_minute')
      .where('name', '=', 'free')
      .executeTakeFirstOrThrow();
    const mine = clientWith(poor.key);
    let error: unknown;
    for (let i = 0; i <= limit && error === undefined; i++)
      await mine.models.list().then(
        () => undefined,
        (thrown: unknown) => (error = thrown),
      );
    expect(error).toBeInstanceOf(RateLimitError);
    expect(Number((error as RateLimitError).headers?.get('retry-after'))).toBeGreaterThan(0);
  });

  test('that breaks off in the midst cancels the turn all the way', async () => {
    const stream = await client.chat.completions.create({ ...say('/slow 10000 20'), stream: true });
    let turnId = '';
    for await (const chunk of stream) {
      turnId = chunk.id.replace('chatcmpl-', '');
      if (chunk.choices[0]?.delta.content) break;
    }
    const turn = () => app.database.db.selectFrom('turns').select('status').where('id', '=', turnId).executeTakeFirstOrThrow();
    await until(async () => (await turn()).status === 'cancelled', 'the turn to be cancelled');
    const usage = () =>
      app.database.db.selectFrom('usage').select('status').where('turn_id', '=', turnId).executeTakeFirstOrThrow();
    await until(async () => (await usage()).status === 'cut_off', 'the call to be cut off');
  });

  test('with a used-up budget is told so', async () => {
    const poor = await app.user(undefined, 'free');
    await app.agent(poor, 'a');
    await app.ready(poor);
    const { tokens_per_month } = await app.database.db
      .selectFrom('tiers')
      .select('tokens_per_month')
      .where('name', '=', 'free')
      .executeTakeFirstOrThrow();
    const month = new Date().toISOString().slice(0, 7);
    await app.database.db
      .insertInto('usage_months')
      .values({ user_id: poor.id, month, tokens: tokens_per_month ?? 0 })
      .execute();
    const error = await clientWith(poor.key)
      .chat.completions.create(say('x', 'berth/a'))
      .catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(RateLimitError);
    expect(error).toMatchObject({
      code: 'insufficient_quota',
      type: 'insufficient_quota',
      message: expect.stringContaining('tokens a month of tier free are used up'),
    });
  });
});
