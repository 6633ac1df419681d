import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { EventReader } from '../support/event-reader.js';
import { textChunk } from '../support/fake-gateway.js';
import { until } from '../support/until.js';

const READY_TIMEOUT_MS = 1_500;

let patient: TestApp;
let impatient: TestApp;
/** The one that is asked. */
let app: TestApp;
let user: Awaited<ReturnType<TestApp['user']>>;

beforeAll(async () => {
  patient = await startApp({ runtime: 'fake' });
  impatient = await startApp({
    runtime: 'fake',
    env: { READY_TIMEOUT_MS: String(READY_TIMEOUT_MS) },
    app: { gateway: { headersMs: 500 } },
  });
});
afterAll(() => Promise.all([patient.stop(), impatient.stop()]));

async function ask(one: TestApp): Promise<void> {
  app = one;
  app.gateways.silent = false;
  app.gateways.script = undefined;
  user = await app.user();
}
beforeEach(() => ask(patient));

/** Waits until the agent can be talked to at once. */
async function reachable(): Promise<void> {
  await app.ready(user);
  await until(async () => (await app.get('/api/v1/agents/a/ping', user.key)).status === 200, 'the agent to answer');
}

const say = (content: string) => ({ messages: [{ role: 'user', content }] });
const chat = () => app.post('/api/v1/agents/a/chat', user.key, say('hello'));
const stream = () => EventReader.open(`${app.url}/api/v1/agents/a/chat/stream`, { key: user.key, body: say('hello') });
const completion = (more: object = {}) =>
  app.post('/v1/chat/completions', user.key, { model: 'berth/a', ...say('hello'), ...more });
const turns = () => app.database.db.selectFrom('turns').selectAll().where('user_id', '=', user.id).execute();

/** An agent whose instance runs but has not dialled. */
async function agentThatDoesNotDial(): Promise<void> {
  app.gateways.silent = true;
  await app.agent(user, 'a');
}

async function agentWhoseLinkIsLost(): Promise<void> {
  await app.agent(user, 'a');
  await app.ready(user);
  app.gateways.silent = true;
  // A call that is on its way when its link goes may have begun; these tests are about one that Berth knows to be gone.
  let unreachable = 0;
  await until(async () => {
    app.gateways.cut();
    unreachable = (await app.get('/api/v1/agents/a/ping', user.key)).status === 200 ? 0 : unreachable + 1;
    return unreachable === 3;
  }, 'the link to be gone');
}

describe.each([
  ['not ready yet', agentThatDoesNotDial],
  ['cut off', agentWhoseLinkIsLost],
])('an agent that is %s', (_, prepare) => {
  test('a stream begins at once, says that it waits, and goes on when the agent is there', async () => {
    await prepare();
    const reader = await stream();
    expect((await reader.first('waiting')).atMs).toBeLessThan(3_000);
    expect(reader.status).toBe(200);
    app.gateways.silent = false;
    await reader.end();
    expect(reader.names).toEqual(['start', 'waiting', 'text', 'done']);
    expect(reader.said).toBe('You said: hello');
  });

  test('a call for one piece waits', async () => {
    await prepare();
    const [one, openAi] = [chat(), completion()];
    await new Promise((resolve) => setTimeout(resolve, 200));
    app.gateways.silent = false;
    expect((await one).json.message).toBe('You said: hello');
    expect((await openAi).json.choices[0].message.content).toBe('You said: hello');
  });

  test('beyond the ready time-out: an error in the stream, 503 with Retry-After else', async () => {
    await ask(impatient);
    await prepare();
    const begun = performance.now();
    const [reader, one, openAi, openAiStream] = await Promise.all([
      stream().then((reader) => reader.end()),
      chat(),
      completion(),
      completion({ stream: true }),
    ]);
    expect(performance.now() - begun).toBeLessThan(READY_TIMEOUT_MS + 5_000);
    expect(reader.names).toEqual(['start', 'waiting', 'error']);
    expect((await reader.first('error')).data).toMatchObject({
      code: 'unavailable',
      error: expect.stringContaining('not ready after 1.5 s'),
    });
    expect([one.status, one.headers.get('retry-after'), one.json.code]).toEqual([503, '5', 'unavailable']);
    for (const answer of [openAi, openAiStream]) {
      expect([answer.status, answer.headers.get('retry-after')]).toEqual([503, '5']);
      expect(answer.json.error).toMatchObject({ type: 'server_error', code: 'unavailable' });
    }
    app.gateways.silent = false;
    await reachable();
    expect((await chat()).status).toBe(200);
  });

  test('a client that goes away while it waits leaves nothing behind', async () => {
    await prepare();
    const reader = await stream();
    await reader.first('waiting');
    reader.hangUp();
    app.gateways.silent = false;
    await app.ready(user);
    expect((await chat()).status).toBe(200);
    expect((await turns()).filter(({ status }) => status === 'running')).toEqual([]);
  });
});

describe('a turn that the instance refuses', () => {
  test('before it began is asked for again, and runs once', async () => {
    await app.agent(user, 'a');
    await app.ready(user);
    let asked = 0;
    app.gateways.script = ({ body }, response) => {
      asked += 1;
      if (asked < 3) {
        response.statusCode = 503;
        response.setHeader('content-type', 'application/json');
        response.end(JSON.stringify({ error: { message: 'The instance is stopping.', type: 'unavailable' } }));
        return;
      }
      response.write(textChunk(`third time: ${String(body.messages.at(-1)?.content)}`, 'stop'));
      response.end('data: [DONE]\n\n');
    };
    expect((await chat()).json.message).toBe('third time: hello');
    expect(asked).toBe(3);
    expect((await turns()).map(({ status }) => status)).toEqual(['finished']);
  });

  test('again and again is given up within the ready time-out', async () => {
    await ask(impatient);
    await app.agent(user, 'a');
    await app.ready(user);
    app.gateways.script = (_request, response) => {
      response.statusCode = 503;
      response.end(JSON.stringify({ error: { message: 'The instance is stopping.', type: 'unavailable' } }));
    };
    const answer = await chat();
    expect([answer.status, answer.json.error]).toEqual([503, 'The instance is stopping.']);
    expect(answer.headers.get('retry-after')).toBeTruthy();
    expect((await turns()).map(({ status }) => status)).toEqual(['failed']);
  });

  test('by a reset that says it was not looked at is asked for again', async () => {
    await app.agent(user, 'a');
    await app.ready(user);
    let asked = 0;
    const REFUSED_STREAM = 7;
    app.gateways.script = (_request, response) => {
      asked += 1;
      if (asked === 1) return response.stream.close(REFUSED_STREAM);
      response.write(textChunk('again', 'stop'));
      response.end('data: [DONE]\n\n');
    };
    expect((await chat()).json.message).toBe('again');
    expect(asked).toBe(2);
  });

  test.each<[string, (response: Parameters<NonNullable<TestApp['gateways']['script']>>[1]) => void]>([
    ['before the headers', () => app.gateways.cut()],
    ['in the midst of the answer', (response) => response.write(textChunk('half'), () => app.gateways.cut())],
  ])('once it may have begun is never run again: the link lost %s', async (_, cut) => {
    await app.agent(user, 'a');
    await app.ready(user);
    let asked = 0;
    app.gateways.script = (_request, response) => {
      asked += 1;
      cut(response);
    };
    const answer = await chat();
    expect([answer.status, answer.json.code], answer.text).toEqual([503, 'unavailable']);
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
    const reader = await (await stream()).end();
    expect((await reader.first('error')).data.code).toBe('unavailable');
    expect(asked).toBe(2);
    expect((await turns()).map(({ status }) => status)).toEqual(['failed', 'failed']);
    app.gateways.script = undefined;
    await reachable();
    expect((await chat()).status).toBe(200);
  });

  test('that never answers at all ends at a stated time', async () => {
    await ask(impatient);
    await app.agent(user, 'a');
    await app.ready(user);
    let reset = false;
    app.gateways.script = (_request, response) => void response.stream.on('close', () => (reset = true));
    const answer = await chat();
    expect([answer.status, answer.json.code]).toEqual([504, 'timeout']);
    await until(() => reset, 'the gateway to be told');
    app.gateways.script = undefined;
    await reachable();
    expect((await chat()).status).toBe(200);
  });
});

test('an engine that does not answer: said while waiting, and at the end of it', async () => {
  await ask(impatient);
  app.engine.goDown();
  try {
    await app.agent(user, 'a');
    const reader = await (await stream()).end();
    const reasons = reader.events.filter(({ event }) => event === 'waiting').map(({ data }) => data.reason);
    expect(reasons.at(-1)).toContain('engine');
    expect((await reader.first('error')).data).toMatchObject({
      code: 'unavailable',
      error: expect.stringMatching(/not ready after 1.5 s: .*engine/),
    });
  } finally {
    app.engine.comeBack();
  }
  await reachable();
  expect((await chat()).status).toBe(200);
});

test('an agent deleted while a turn waits for it: not found', async () => {
  await agentThatDoesNotDial();
  const reader = await stream();
  await reader.first('waiting');
  expect((await app.call('DELETE', '/api/v1/agents/a', { key: user.key })).status).toBe(202);
  await reader.end();
  expect((await reader.first('error')).data).toMatchObject({ code: 'not_found', error: 'agent not found' });
});

test('a turn that cannot be written down does not run on', async () => {
  await app.agent(user, 'a');
  await app.ready(user);
  let [begun, ended] = [0, 0];
  app.gateways.script = (_request, response) => {
    begun += 1;
    response.stream.on('close', () => (ended += 1));
    response.write(textChunk('unheard'));
  };
  const { db } = app.database;
  await sql`alter table turns rename to turns_gone`.execute(db);
  try {
    const answer = await chat();
    expect([answer.status, answer.json.error]).toEqual([500, 'internal server error']);
  } finally {
    await sql`alter table turns_gone rename to turns`.execute(db);
  }
  app.gateways.script = undefined;
  expect((await chat()).status).toBe(200);
  // Whether or not the gateway had heard of it by then.
  await until(() => ended === begun, 'the gateway to be told');
});
