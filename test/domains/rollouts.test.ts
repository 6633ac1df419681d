import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { healthOf, wavesOf } from '../../src/domains/rollouts/waves.js';
import { startApp, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';
import { EventReader } from '../support/event-reader.js';
import { until } from '../support/until.js';

describe('the waves of a rollout', () => {
  test('are the canary, then as many as had their turn, until all have', () => {
    expect(wavesOf(8, 0.1)).toEqual([0, 1, 2, 2, 3, 3, 3, 3]);
    expect(wavesOf(5, 0.5)).toEqual([0, 0, 0, 1, 1]);
    expect(wavesOf(2, 1)).toEqual([0, 0]);
    expect(wavesOf(0, 0.1)).toEqual([]);
  });

  test('are as healthy as the worse of deployments and turns, of which a few say nothing', () => {
    expect(healthOf({ all: 4, failed: 1 }, { ended: 20, failed: 0 })).toBe(0.75);
    expect(healthOf({ all: 4, failed: 0 }, { ended: 20, failed: 10 })).toBe(0.5);
    expect(healthOf({ all: 0, failed: 0 }, { ended: 9, failed: 9 })).toBe(1);
  });
});

describe.each(databaseKinds)('a rollout (fake, %s)', (database) => {
  let app: TestApp;
  let beside: TestApp | undefined;
  let users: { id: string; key: string }[];
  const deploymentIds: string[] = [];
  beforeAll(async () => {
    const env = { AGENT_IMAGE: 'usual', AGENT_IMAGES: 'other,third', REPLACE_PROBATION_MS: '50' };
    app = await startApp({ database, env });
    // Two processes, where two can share a database: all below holds for both together.
    if (database === 'postgres') beside = await startApp({ beside: app, env });
    users = await Promise.all([0, 1, 2].map(() => app.user(undefined, 'business')));
    for (const user of users) deploymentIds.push((await app.agent(user, 'a')).deploymentId);
    for (const user of users) await app.ready(user);
  }, 120_000);
  afterAll(async () => {
    await beside?.stop();
    await app.stop();
  });

  /** So long that no wave begins by itself, and the way to have that time go by. */
  const NEVER_S = 86_400;
  const pauseGoesBy = (id: string) =>
    sql`update rollouts set ready_at = now() - interval '1 day' where id = ${id}`.execute(app.database.db);
  const begin = (more: object) =>
    app.post('/api/v1/rollouts', app.adminKey, { canary: 0.3, pause_s: 0, least_health: 0.9, ...more });
  const get = async (id: string) => (await app.get(`/api/v1/rollouts/${id}`, app.adminKey)).json;
  const untilState = (id: string, state: string) =>
    until(async () => (await get(id)).state === state, `the rollout to be ${state}`, 40_000);
  const images = async () => {
    const rows = await app.database.db
      .selectFrom('instances')
      .select('image')
      .where('ended_at', 'is', null)
      .where('deployment_id', 'in', deploymentIds)
      .execute();
    return rows.map((row) => row.image).toSorted();
  };
  const all = (image: string) => users.map(() => image);
  const chats = async () => {
    for (const user of users) {
      const said = { messages: [{ role: 'user', content: 'hello' }] };
      expect((await app.post('/api/v1/agents/a/chat', user.key, said)).status).toBe(200);
    }
  };

  test('gives all deployments the image, wave after wave, and can be watched', async () => {
    const answer = await begin({ image: 'other' });
    expect(answer).toMatchObject({ status: 202 });
    expect(answer.json).toMatchObject({ state: 'running', waves: 3, deployments: { waiting: 3 } });
    const { id } = answer.json;
    expect((await begin({ image: 'third' })).status).toBe(409);
    const reader = await EventReader.open(`${app.url}/api/v1/rollouts/${id}?watch=true`, { method: 'GET', key: app.adminKey });
    await reader.end();
    expect(reader.events.at(-1)).toMatchObject({ event: 'ended', data: { state: 'done', wave: 3, deployments: { ready: 3 } } });
    const waves = reader.events.map((event) => event.data.wave);
    expect(waves).toEqual(waves.toSorted());
    expect(await images()).toEqual(all('other'));
    await chats();
  }, 60_000);

  test('takes only images that the operator offers, and only admins', async () => {
    const refused = await begin({ image: 'evil' });
    expect(refused).toMatchObject({ status: 400 });
    expect(refused.text).toContain('must be one of usual, other, third');
    expect((await app.post('/api/v1/rollouts', users[0]!.key, { image: 'third' })).status).toBe(403);
    expect((await app.get('/api/v1/rollouts/rol_none', app.adminKey)).status).toBe(404);
  });

  test('stands still while it is paused, goes on, and is undone to what was there before', async () => {
    const { id } = (await begin({ image: 'third', pause_s: NEVER_S })).json;
    await until(async () => (await get(id)).deployments.ready === 1, 'the canary');
    expect((await app.post(`/api/v1/rollouts/${id}/pause`, app.adminKey, undefined)).json.state).toBe('paused');
    await pauseGoesBy(id);
    expect(await images()).toEqual(['other', 'other', 'third']);
    expect((await app.post(`/api/v1/rollouts/${id}/resume`, app.adminKey, undefined)).json.state).toBe('running');
    await until(async () => (await get(id)).deployments.ready === 2, 'the next wave');
    const undone = await app.post(`/api/v1/rollouts/${id}/undo`, app.adminKey, undefined);
    expect(undone.json).toMatchObject({ state: 'undone', deployments: { undone: 2, waiting: 1 } });
    await until(async () => (await images()).join() === all('other').join(), 'all to have what they had');
    expect((await app.post(`/api/v1/rollouts/${id}/resume`, app.adminKey, undefined)).status).toBe(409);
    for (const user of users) await app.ready(user);
    await chats();
    const list = (await app.get('/api/v1/rollouts', app.adminKey)).json;
    expect(list.data.map((one: { state: string }) => one.state)).toEqual(['done', 'undone']);
  }, 60_000);

  test('halts when turns fail on it, though its deployments are well', async () => {
    const { id } = (await begin({ image: 'third', pause_s: NEVER_S })).json;
    await until(async () => (await get(id)).deployments.ready === 1, 'the canary');
    const { user_id: canary } = await app.database.db
      .selectFrom('deployments')
      .select('user_id')
      .where('rolled_image', '=', 'third')
      .executeTakeFirstOrThrow();
    const gateways = [app, beside ?? app].map((one) => one.gateways);
    // Ends without a word, as a gateway does that cannot work.
    for (const one of gateways) one.script = (_, response) => void response.end();
    const said = { messages: [{ role: 'user', content: 'hello' }] };
    for (let n = 0; n < 10; n++) await app.post(`/api/v1/users/${canary}/agents/a/chat`, app.adminKey, said);
    await untilState(id, 'halted');
    for (const one of gateways) one.script = undefined;
    expect(await get(id)).toMatchObject({ wave: 1, health: 0, deployments: { undone: 1, waiting: 2 } });
    expect((await get(id)).reason).toBe('its health fell to 0.00, below 0.9');
    await until(async () => (await images()).join() === all('other').join(), 'all to have what they had');
  }, 60_000);

  test('is undone also when it is done, and the history of each deployment says so', async () => {
    const [{ id }] = (await app.get('/api/v1/rollouts', app.adminKey)).json.data;
    expect((await app.post(`/api/v1/rollouts/${id}/undo`, app.adminKey, undefined)).json.state).toBe('undone');
    await until(async () => (await images()).join() === all('usual').join(), 'all to have the usual image');
    for (const user of users) await app.ready(user);
    const path = `/api/v1/users/${users[0]!.id}/deployments/${deploymentIds[0]!}/revisions`;
    const revisions = (await app.get(path, app.adminKey)).json.data;
    const ofThis = revisions.filter((one: { reason: string | null }) => one.reason?.includes(id));
    expect(ofThis).toMatchObject([
      { actor: 'rollouts', reason: `rollout ${id} was undone`, image: 'usual', image_from: 'installation' },
      { actor: 'rollouts', reason: `rollout ${id}`, image: 'other', image_from: 'rollout' },
    ]);
    const events = `/api/v1/users/${users[0]!.id}/events?type=deployment.image_changed`;
    const told = (await app.get(events, users[0]!.key)).json.data.map((event: { data: object }) => event.data);
    const what = { deployment_id: deploymentIds[0]! };
    expect(told.filter(({ reason }: { reason: string }) => reason.includes(id))).toEqual([
      { ...what, image: 'other', reason: `rollout ${id}` },
      { ...what, image: null, reason: `rollout ${id} was undone` },
    ]);
  }, 60_000);

  test('halts when a deployment does badly, says why, and nobody is the worse for it', async () => {
    const before = await app.database.db
      .selectFrom('instances')
      .select('id')
      .where('ended_at', 'is', null)
      .orderBy('id')
      .execute();
    app.engine.fail('create', { times: 1_000, error: new Error('no such image') });
    const { id } = (await begin({ image: 'third' })).json;
    await untilState(id, 'halted');
    expect(await get(id)).toMatchObject({ health: 0, deployments: { undone: 1, waiting: 2 } });
    expect((await get(id)).reason).toContain('the new instance was given up');
    for (const user of users) await app.ready(user);
    const after = await app.database.db
      .selectFrom('instances')
      .select('id')
      .where('ended_at', 'is', null)
      .orderBy('id')
      .execute();
    expect(after).toEqual(before);
    expect(await images()).toEqual(all('usual'));
    await chats();
  }, 60_000);
});
