import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';

describe.each(databaseKinds)('the main path on %s', (database) => {
  let app: TestApp;
  let user: Awaited<ReturnType<TestApp['user']>>;
  beforeAll(async () => {
    app = await startApp({ database, runtime: 'docker' });
    user = await app.user('ada');
  });
  afterAll(() => app.stop());

  test('a user, two agents, a real container, an answer', async () => {
    const made = await app.post('/api/v1/users/me/agents', user.key, [{ name: 'manager' }, { name: 'coder' }]);
    expect(made.status).toBe(202);
    expect(made.json.agents.map((agent: { name: string }) => agent.name)).toEqual(['manager', 'coder']);
    const answer = await app.post('/api/v1/users/ada/agents/manager/chat', user.key, {
      messages: [{ role: 'user', content: 'hello there' }],
    });
    expect(answer.status, answer.text).toBe(200);
    expect(answer.json).toMatchObject({
      message: 'You said: hello there',
      agent: 'manager',
      usage: { completion_tokens: expect.any(Number) },
    });
    await app.ready(user);
    const ping = await app.get('/api/v1/users/me/agents/coder/ping', user.key);
    expect(ping.json).toMatchObject({ agent: 'coder', status: 'online' });
  });
});
