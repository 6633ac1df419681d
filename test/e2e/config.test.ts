import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { FakeUpstream, openai } from '../support/fake-upstream.js';
import { say, shell, type Tenant, tenant } from './inside.js';

let app: TestApp;
let upstream: FakeUpstream;
let who: Tenant;

beforeAll(async () => {
  upstream = await FakeUpstream.start();
  app = await startApp({ runtime: 'process', env: { OPENAI_BASE_URL: upstream.url } });
  who = await tenant(app);
});
afterAll(async () => {
  await app.stop();
  await upstream.close();
});

async function patch(body: object): Promise<void> {
  const answer = await app.call('PATCH', '/api/v1/users/me/agents/a/config', { key: who.key, body });
  expect(answer.status, answer.text).toBe(200);
  expect(answer.json.applies).toBe('live');
}

const instance = async (): Promise<string> => (await app.get('/api/deploy/status', who.key)).json.deployments[0].instance.id;

describe('a change of the config is in the next turn, without another instance', () => {
  test('variables reach the tools, and leave them', async () => {
    const before = await instance();
    await patch({ env: { GREETING: 'hello "there" $HOME' } });
    expect(await shell(app, who, 'printenv GREETING')).toBe('hello "there" $HOME');
    await patch({ env: { GREETING: null } });
    expect(await shell(app, who, 'printenv GREETING || echo none')).toContain('none');
    expect(await instance()).toBe(before);
  });

  test('tools are taken away and given back', async () => {
    const list = () => say(app, who, '/tool list_files {}');
    const run = () => say(app, who, '/tool shell {"command":"echo ran"}');
    expect(await run()).toContain('ran');
    await patch({ shell: 'off' });
    expect(await run()).not.toContain('ran\n');
    expect(await run()).toMatch(/no such tool|not allowed|unknown tool|no tool/i);
    await patch({ shell: null, tools: { allow: ['shell'] } });
    expect(await run()).toContain('ran');
    expect(await list()).toMatch(/no such tool|not allowed|unknown tool|no tool/i);
    await patch({ tools: null });
    expect(await list()).not.toMatch(/no such tool|not allowed|unknown tool|no tool/i);
  });

  test('the cap of steps holds', async () => {
    await patch({ max_steps: 2 });
    const said = await app.post('/api/v1/users/me/agents/a/chat', who.key, { messages: [{ role: 'user', content: '/loop' }] });
    expect(said.status).toBe(200);
    expect(said.json.message).toMatch(/step/i);
    await patch({ max_steps: null });
  });

  test('model and sampling are what the provider is asked with', async () => {
    await patch({
      model: 'openai/some',
      sampling: {
        temperature: 0.25,
        top_p: 0.5,
        max_tokens: 77,
        frequency_penalty: 1,
        presence_penalty: -1,
        seed: 9,
        stop: ['END'],
      },
    });
    upstream.fallback = openai.text('from upstream');
    expect(await say(app, who, 'hi')).toBe('from upstream');
    expect(upstream.requests.at(-1)?.body).toMatchObject({
      model: 'some',
      temperature: 0.25,
      top_p: 0.5,
      frequency_penalty: 1,
      presence_penalty: -1,
      seed: 9,
      stop: ['END'],
    });
    const { max_tokens: some, max_completion_tokens: other } = upstream.requests.at(-1)?.body ?? {};
    expect(some ?? other).toBe(77);
    await patch({ model: null, sampling: null });
    expect(await say(app, who, 'hi')).toBe('You said: hi');
  });
});
