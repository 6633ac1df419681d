import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { Desk } from '../support/snapshot-desk.js';

vi.setConfig({ testTimeout: 180_000, hookTimeout: 180_000 });

let app: TestApp;
beforeAll(async () => {
  app = await startApp({
    database: 'postgres',
    runtime: 'docker',
    env: { AGENT_IMAGE: process.env.AGENT_IMAGE ?? 'berth-agent:latest', UNDELETE_HOURS: '24' },
  });
});
afterAll(() => app.stop());

test('an agent in a container is snapshotted, restored, forked, deleted and brought back with all it had', async () => {
  const desk = new Desk(app, await app.user());
  const { id } = await app.agent(desk.user, 'a', { instructions: 'Be brief.' });
  await desk.write('a', 'notes/kept.txt', 'before');
  const { conversation_id: conversation } = await desk.say('a', 'first');
  const snapshot = await desk.take('a');
  await desk.write('a', 'notes/kept.txt', 'after');
  await desk.say('a', 'second', conversation);

  const { json: restore } = await desk.post('a', `snapshots/${snapshot}/restore`);
  await desk.restored('a', restore);
  expect((await desk.read('a', 'notes/kept.txt')).text).toBe('before');
  const history = (await desk.say('a', '/history', conversation)).message;
  expect(history).toContain('first');
  expect(history).not.toContain('second');

  // Into the same container, and into one of its own.
  const fork = await desk.post('a', 'duplicate', { name: 'b', snapshot });
  await desk.restored('b', fork.json.restore);
  expect((await desk.read('b', 'notes/kept.txt')).text).toBe('before');
  await desk.write('b', 'notes/kept.txt', 'of b');
  expect((await desk.read('a', 'notes/kept.txt')).text).toBe('before');
  const config = await app.call('PATCH', desk.at('b', 'config'), { key: desk.user.key, body: { isolation: 'dedicated' } });
  expect(config.status).toBe(200);
  expect((await desk.read('b', 'notes/kept.txt')).text).toBe('of b');
  const apart = await desk.post('b', 'duplicate', { name: 'c' });
  await desk.restored('c', apart.json.restore);
  expect((await desk.read('c', 'notes/kept.txt')).text).toBe('of b');

  expect((await app.call('DELETE', '/api/v1/agents/a', { key: desk.user.key })).status).toBe(202);
  const back = await desk.post(id, 'undelete');
  await desk.restored('a', back.json.restore);
  expect((await desk.read('a', 'notes/kept.txt')).text).toBe('before');
});
