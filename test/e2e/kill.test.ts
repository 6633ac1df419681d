import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { BerthProcess } from '../support/berth-process.js';
import { testDatabase, type TestDatabase } from '../support/database.js';
import { FakeUpstream, openai } from '../support/fake-upstream.js';
import { until } from '../support/until.js';

/** From the first statement of a deploy to after its end. */
const KILL_AFTER_MS = [0, 15, 40, 80, 130, 200, 280, 400, 600, 900];

describe('a stop of Berth', () => {
  test('ends the streams in flight with an error that says why, and leaves the agents running', async () => {
    const database = await testDatabase('postgres');
    const berth = await BerthProcess.prepare({ DATABASE_URL: database.url ?? '' });
    try {
      await berth.start();
      const user = await berth.call('POST', '/api/v1/users', await berth.adminKey(), { name: 'stopped', tier: 'pro' });
      const key = user.json.api_key;
      await berth.call('POST', '/api/v1/users/me/agents', key, { name: 'a' });
      await answers(berth, key);
      const stream = await fetch(`${berth.url}/api/v1/agents/a/chat/stream`, {
        method: 'POST',
        headers: { 'x-api-key': key, 'content-type': 'application/json' },
        body: JSON.stringify({ messages: [{ role: 'user', content: '/slow 1000 50' }] }),
      });
      const reader = stream.body!.pipeThrough(new TextDecoderStream()).getReader();
      let text = '';
      while (!text.includes('event: text')) text += (await reader.read()).value ?? '';
      const stopped = berth.kill('SIGTERM');
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        text += value;
      }
      expect(text.trim().split('\n\n').at(-1)).toMatch(/^event: error\ndata: .*"code":"unavailable"/);
      await stopped;
      await berth.engine(async (runtime) =>
        expect((await runtime.list()).instances.map((one) => one.state)).toEqual(['running']),
      );
    } finally {
      await berth.destroy();
      await database.close();
    }
  }, 120_000);
});

describe('kill -9 of Berth while it provisions', () => {
  let database: TestDatabase;
  let berth: BerthProcess;
  let admin: string;
  beforeAll(async () => {
    database = await testDatabase('postgres');
    berth = await BerthProcess.prepare({ DATABASE_URL: database.url ?? '' });
    await berth.start();
    admin = await berth.adminKey();
  });
  afterAll(async () => {
    await berth.destroy();
    await database.close();
  });

  test('at many points: it converges to one container that answers, with no orphan and no lost user', async () => {
    const users: { name: string; key: string }[] = [];
    for (const [index, afterMs] of KILL_AFTER_MS.entries()) {
      const name = `killed${index}`;
      const user = await berth.call('POST', '/api/v1/users', admin, { name, tier: 'pro' });
      expect(user.status).toBe(201);
      users.push({ name, key: user.json.api_key });
      const made = await berth.call('POST', '/api/v1/users/me/agents', user.json.api_key, { name: 'a' });
      expect(made.status).toBe(202);
      await new Promise((resolve) => setTimeout(resolve, afterMs));
      await berth.kill('SIGKILL');
      await berth.start();
    }
    for (const user of users) await answers(berth, user.key);
    await berth.engine(async (runtime) => {
      await until(async () => (await runtime.list()).instances.length === users.length, 'exactly one container a user', 30_000);
      const { instances, volumes } = await runtime.list();
      expect(new Set(instances.map((one) => one.deploymentId)).size).toBe(users.length);
      expect(instances.every((one) => one.state === 'running')).toBe(true);
      expect(volumes).toHaveLength(users.length);
    });
  }, 240_000);

  test('a kill while users are deleted leaves nothing of them', async () => {
    const { json } = await berth.call('GET', '/api/v1/users', admin);
    for (const user of json.data) expect((await berth.call('DELETE', `/api/v1/users/${user.id}`, admin)).status).toBe(202);
    await berth.kill('SIGKILL');
    await berth.start();
    await until(
      async () => (await berth.call('GET', '/api/v1/users', admin)).json.data.length === 0,
      'the users to be gone',
      60_000,
    );
    await berth.engine(async (runtime) => expect(await runtime.list()).toEqual({ instances: [], volumes: [] }));
  }, 120_000);
});

async function answers(berth: BerthProcess, key: string): Promise<void> {
  const answer = await berth.call('POST', '/api/v1/users/me/agents/a/chat', key, {
    messages: [{ role: 'user', content: 'still there?' }],
  });
  expect(answer.status, JSON.stringify(answer.json)).toBe(200);
  expect(answer.json.message).toBe('You said: still there?');
}

describe('a heartbeat that runs as Berth is killed', () => {
  test('is lost, and the next one goes on', async () => {
    const upstream = await FakeUpstream.start();
    const database = await testDatabase('postgres');
    const berth = await BerthProcess.prepare({
      DATABASE_URL: database.url ?? '',
      OPENAI_BASE_URL: `${upstream.url}/v1`,
      OPENAI_API_KEY: 'sk-provider-0123456789',
    });
    try {
      await berth.start();
      const { json: user } = await berth.call('POST', '/api/v1/users', await berth.adminKey(), { name: 'beaten', tier: 'pro' });
      const key = user.api_key;
      await berth.call('POST', '/api/v1/agents', key, { name: 'a', model: 'openai/gpt-fake' });
      await berth.call('PUT', '/api/v1/agents/a/templates', key, { 'HEARTBEAT.md': '- Water the plants.' });
      const beats = async () =>
        (await berth.call('GET', '/api/v1/agents/a/heartbeats', key)).json.data as { id: string; status: string }[];

      upstream.script({ instead: 'stall' });
      const asked = await berth.call('POST', '/api/v1/agents/a/heartbeats', key);
      expect(asked.json.status).toBe('running');
      await until(() => upstream.requests.length === 1, 'the model to be asked');
      await berth.kill();
      // As if it were a minute later: what is not heard of for so long is dead.
      await sql`update processes set heartbeat_at = now() - interval '2 minutes'`.execute(database.db);
      upstream.fallback = openai.text('NO_REPLY');
      await berth.start();
      await until(
        async () => (await beats()).some(({ id, status }) => id === asked.json.id && status === 'lost'),
        'it to be lost',
      );
      const schedule = async () => (await berth.call('GET', '/api/v1/agents/a/heartbeats', key)).json.schedule;
      await until(async () => (await schedule()).next_at !== null, 'a plan');
      await sql`update heartbeats set next_at = now()`.execute(database.db);
      await until(async () => (await beats())[0]?.status === 'quiet', 'the next one');
      expect((await beats()).map(({ status }) => status)).toEqual(['quiet', 'lost']);
    } finally {
      await berth.destroy();
      await database.close();
      await upstream.close();
    }
  }, 120_000);
});
