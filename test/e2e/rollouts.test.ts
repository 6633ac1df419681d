import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { BerthProcess } from '../support/berth-process.js';
import { testDatabase, type TestDatabase } from '../support/database.js';
import { Talker } from '../support/talker.js';
import { until } from '../support/until.js';

const run = promisify(execFile);
const IMAGE = process.env.AGENT_IMAGE ?? 'berth-agent:latest';

/** Two waves of one deployment each, on a real engine: the second is on its way when the first is well. */
describe('a rollout on a real engine', () => {
  /** The usual image by another name: made of something else, as far as Berth can tell. */
  const other = `berth-rollout-test:${randomBytes(4).toString('hex')}`;
  let database: TestDatabase;
  let berth: BerthProcess;
  let admin: string;
  const users: { id: string; deploymentId: string; conversation: string }[] = [];

  beforeAll(async () => {
    await run('docker', ['tag', IMAGE, other]);
    database = await testDatabase('postgres');
    berth = await BerthProcess.prepare({
      DATABASE_URL: database.url ?? '',
      REPLACE_PROBATION_MS: '500',
      AGENT_IMAGE: IMAGE,
      AGENT_IMAGES: other,
    });
    await berth.start();
    admin = await berth.adminKey();
    for (const name of ['first', 'second']) {
      const { id } = (await berth.call('POST', '/api/v1/users', admin, { name, tier: 'business' })).json;
      const made = await berth.call('POST', `/api/v1/users/${id}/agents`, admin, { name: 'a' });
      const said = await say(id, 'remember me');
      users.push({ id, deploymentId: made.json.deployment_id, conversation: said.conversation_id });
    }
  }, 120_000);
  afterAll(async () => {
    await berth.destroy();
    await database.close();
    await run('docker', ['rmi', other]);
  });

  const say = async (userId: string, content: string, conversation?: string) => {
    const body = { messages: [{ role: 'user', content }], ...(conversation ? { conversation_id: conversation } : {}) };
    const answer = await berth.call('POST', `/api/v1/users/${userId}/agents/a/chat`, admin, body);
    expect(answer.status, JSON.stringify(answer.json)).toBe(200);
    return answer.json;
  };
  const begin = async (image: string): Promise<string> => {
    const wish = { image, canary: 0.5, pause_s: 0, least_health: 1 };
    const answer = await berth.call('POST', '/api/v1/rollouts', admin, wish);
    expect(answer.status, JSON.stringify(answer.json)).toBe(202);
    return answer.json.id;
  };
  const get = async (id: string) => (await berth.call('GET', `/api/v1/rollouts/${id}`, admin)).json;
  const untilDone = async (id: string) => {
    let seen = '';
    const isDone = async () => {
      const rollout = await get(id);
      seen = JSON.stringify(rollout);
      return rollout.ended_at !== null;
    };
    await until(isDone, () => `the rollout to end: ${seen}`, 120_000);
    expect(await get(id)).toMatchObject({ state: 'done', health: 1, deployments: { ready: 2 } });
  };
  /** What the engine says that its containers are made of, and which instances the database says live. */
  const expectAll = async (image: string) => {
    const live = await database.db.selectFrom('instances').select(['name', 'image']).where('ended_at', 'is', null).execute();
    expect(live.map((one) => one.image)).toEqual([image, image]);
    const { stdout } = await run('docker', ['inspect', '--format', '{{.Config.Image}}', ...live.map((one) => one.name)]);
    expect(stdout.trim().split('\n')).toEqual([image, image]);
    await berth.engine(async (runtime) => expect((await runtime.list()).instances).toHaveLength(2));
    for (const { id, conversation } of users) expect((await say(id, '/history', conversation)).message).toContain('remember me');
  };

  test('fails no turn of clients that chat all the time', async () => {
    const talkers = users.map(({ id }) => new Talker(`${berth.url}/api/v1/users/${id}/agents/a/chat`, admin).begin('hello'));
    await untilDone(await begin(other));
    for (const talker of talkers) await talker.more(4);
    await Promise.all(talkers.map((talker) => talker.end()));
    expect(talkers.flatMap((talker) => talker.failures)).toEqual([]);
    await expectAll(other);
  }, 240_000);

  test('goes on by itself where Berth was killed in the midst of a wave', async () => {
    const id = await begin(IMAGE);
    for (const wave of [1, 2]) {
      await until(
        async () => {
          const rollout = await get(id);
          return rollout.ended_at !== null || (rollout.wave === wave && rollout.deployments.rolling > 0);
        },
        `wave ${wave}`,
        60_000,
      );
      await berth.kill('SIGKILL');
      await berth.start();
    }
    await untilDone(id);
    await expectAll(IMAGE);
  }, 240_000);
});
