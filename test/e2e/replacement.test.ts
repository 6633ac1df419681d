import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { BerthProcess } from '../support/berth-process.js';
import { databaseKinds, testDatabase } from '../support/database.js';
import { EventReader } from '../support/event-reader.js';
import { liveInstances, untilReplaced, wishImage } from '../support/replacing.js';
import { Talker } from '../support/talker.js';
import { until } from '../support/until.js';

type Made = { id: string; deploymentId: string };

const RUNTIMES = [
  ...databaseKinds.map((database) => ({ database, runtime: 'process' as const, times: database === 'postgres' ? 5 : 2 })),
  { database: 'postgres' as const, runtime: 'docker' as const, times: 2 },
];

describe.each(RUNTIMES)('a replacement while clients chat ($runtime, $database)', ({ database, runtime, times }) => {
  let app: TestApp;
  let user: { id: string; key: string };
  let agents: Made[];
  const image = process.env.AGENT_IMAGE ?? 'berth-agent:latest';
  beforeAll(async () => {
    app = await startApp({ database, runtime, env: { AGENT_IMAGE: image } });
    user = await app.user(undefined, 'business');
    agents = [await app.agent(user, 'a'), await app.agent(user, 'b')];
    await app.ready(user);
  }, 60_000);
  afterAll(() => app.stop());

  test(`${times} of them fail no turn, and conversations and files go along`, async () => {
    const base = `${app.url}/api/v1/users/${user.id}/agents`;
    const first = await app.post(`/api/v1/users/${user.id}/agents/a/chat`, app.adminKey, {
      messages: [{ role: 'user', content: 'keep this' }],
    });
    const { conversation_id } = first.json;
    const talkers = ['a', 'b'].map((name) => new Talker(`${base}/${name}/chat`, app.adminKey).begin('hello'));
    talkers[0]!.begin('/slow 10 20');
    const { deploymentId } = agents[0]!;
    for (let n = 0; n < times; n++) {
      const [before] = await liveInstances(app, deploymentId);
      // The same image by another of its names: made of something else, as far as anybody can tell.
      const other = image.endsWith(':latest') ? image : 'berth-agent:latest';
      await wishImage(app, deploymentId, n % 2 === 0 ? other : null);
      await untilReplaced(app, deploymentId, before!.generation);
      for (const talker of talkers) await talker.more(4);
    }
    await Promise.all(talkers.map((talker) => talker.end()));
    expect(talkers.flatMap((talker) => talker.failures)).toEqual([]);
    const history = await app.post(`/api/v1/users/${user.id}/agents/a/chat`, app.adminKey, {
      messages: [{ role: 'user', content: '/history' }],
      conversation_id,
    });
    expect(history.json.message).toContain('keep this');
    const { instances } = await app.runtime.list();
    expect(instances).toHaveLength(1);
  }, 180_000);
});

describe('a turn in the way of a replacement', () => {
  test('is waited for as long as the operator says, then ends in an error that says why', async () => {
    const app = await startApp({ database: 'pglite', runtime: 'process', env: { REPLACE_TURN_TIMEOUT_MS: '1500' } });
    try {
      const user = await app.user(undefined, 'business');
      const { deploymentId } = await app.agent(user, 'a');
      await app.ready(user);
      const reader = await EventReader.open(`${app.url}/api/v1/agents/a/chat/stream`, {
        key: user.key,
        body: { messages: [{ role: 'user', content: '/slow 100000 20' }] },
      });
      await reader.first('text');
      const [before] = await liveInstances(app, deploymentId);
      await wishImage(app, deploymentId, 'other');
      await until(async () => (await liveInstances(app, deploymentId))[1]?.handing_at != null, 'the hand-over to begin');
      // Asked in the midst of it, and answered by whoever may.
      const other = app.post('/api/v1/agents/a/chat', user.key, { messages: [{ role: 'user', content: 'and me?' }] });
      await reader.end();
      expect(reader.events.at(-1)).toMatchObject({ event: 'error', data: { code: 'unavailable' } });
      expect(reader.events.at(-1)?.data.error).toContain('replacement');
      expect((await other).json.message).toBe('You said: and me?');
      await untilReplaced(app, deploymentId, before!.generation);
    } finally {
      await app.stop();
    }
  }, 60_000);
});

describe('two Berth processes', () => {
  test('replace an instance once, and fail no turn of clients of either', async () => {
    const first = await startApp({ database: 'postgres', runtime: 'process' });
    const second = await startApp({ beside: first, runtime: 'process' });
    try {
      const user = await first.user(undefined, 'business');
      const { deploymentId } = await first.agent(user, 'a');
      await first.ready(user);
      const talkers = [first, second].map((app) =>
        new Talker(`${app.url}/api/v1/users/${user.id}/agents/a/chat`, first.adminKey).begin('hello'),
      );
      const restart = () => first.post(`/api/v1/users/${user.id}/agents/a/restart`, first.adminKey, undefined);
      for (const wish of [() => wishImage(first, deploymentId, 'other'), restart]) {
        const [before] = await liveInstances(first, deploymentId);
        await wish();
        await untilReplaced(first, deploymentId, before!.generation);
        expect((await liveInstances(first, deploymentId))[0]!.generation).toBe(before!.generation + 1);
        for (const talker of talkers) await talker.more(4);
      }
      await Promise.all(talkers.map((talker) => talker.end()));
      expect(talkers.flatMap((talker) => talker.failures)).toEqual([]);
    } finally {
      await second.stop();
      await first.stop();
    }
  }, 120_000);
});

/** From before the new container is there to after the old one has gone. */
const KILL_AFTER_MS = [300, 900, 1_600, 2_600];

describe('kill -9 of Berth in the midst of a replacement', () => {
  test('at several points: one container is left, which answers and remembers', async () => {
    const database = await testDatabase('postgres');
    const berth = await BerthProcess.prepare({
      DATABASE_URL: database.url ?? '',
      REPLACE_PROBATION_MS: '500',
      ...(process.env.AGENT_IMAGE ? { AGENT_IMAGE: process.env.AGENT_IMAGE } : {}),
      AGENT_IMAGES: 'berth-agent:latest',
    });
    try {
      await berth.start();
      const made = await berth.call('POST', '/api/v1/users', await berth.adminKey(), { name: 'killed', tier: 'pro' });
      const key = made.json.api_key;
      const agent = await berth.call('POST', '/api/v1/users/me/agents', key, { name: 'a' });
      const say = (content: string, conversation?: string) =>
        berth.call('POST', '/api/v1/users/me/agents/a/chat', key, {
          messages: [{ role: 'user', content }],
          ...(conversation === undefined ? {} : { conversation_id: conversation }),
        });
      const { conversation_id } = (await say('before')).json;
      const { deployment_id: deploymentId } = agent.json;
      for (const [index, afterMs] of KILL_AFTER_MS.entries()) {
        const [before] = await liveInstances({ database }, deploymentId);
        await wishImage({ database }, deploymentId, index % 2 === 0 ? 'berth-agent:latest' : null);
        await new Promise((resolve) => setTimeout(resolve, afterMs));
        await berth.kill('SIGKILL');
        await berth.start();
        expect((await say(`after ${index}`, conversation_id)).json.message).toBe(`You said: after ${index}`);
        await untilReplaced({ database }, deploymentId, before!.generation, 60_000);
      }
      const { message } = (await say('/history', conversation_id)).json;
      expect(message).toBe(['before', ...KILL_AFTER_MS.keys()].map((n) => (n === 'before' ? n : `after ${n}`)).join(' | '));
      await berth.engine(async (runtime) => {
        await until(async () => (await runtime.list()).instances.length === 1, 'one container');
        expect((await runtime.list()).volumes).toHaveLength(1);
      });
    } finally {
      await berth.destroy();
      await database.close();
    }
  }, 240_000);
});
