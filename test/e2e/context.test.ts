import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { FakeUpstream, openai } from '../support/fake-upstream.js';
import { until } from '../support/until.js';

const forecast = {
  name: 'forecast',
  description: 'Says the weather of a place.',
  parameters: { type: 'object', properties: { place: { type: 'string' }, days: { type: 'integer' } }, required: ['place'] },
  command: 'read -r args; echo "in: $args"; echo "env: $BERTH_ARGS"; pwd; echo "who: $BERTH_AGENT"',
};
const SKILL = '---\nname: greeter\ndescription: Greets people as the house does.\n---\n\nSay moin.\n';

let upstream: FakeUpstream;
let app: TestApp;
let user: Awaited<ReturnType<TestApp['user']>>;
let base: string;

beforeAll(async () => {
  upstream = await FakeUpstream.start();
  app = await startApp({
    runtime: 'process',
    env: { OPENAI_BASE_URL: `${upstream.url}/v1`, READY_TIMEOUT_MS: '15000' },
    app: { secrets: { openaiApiKey: 'sk-provider-0123456789', anthropicApiKey: undefined } },
  });
  user = await app.user();
  base = `/api/v1/users/${user.id}`;
  await app.agent(user, 'a', { model: 'openai/gpt-fake', instructions: 'Be brief.\nAnswer in verse.' });
  await app.agent(user, 'plain', { model: 'openai/gpt-fake' });
  await app.ready(user);
});
afterAll(async () => {
  await app.stop();
  await upstream.close();
});

const put = async (path: string, body: unknown, headers?: Record<string, string>) => {
  const answer = await app.call('PUT', `${base}${path}`, { key: user.key, body, ...(headers ? { headers } : {}) });
  expect(answer.status, answer.text).toBeLessThan(300);
  return answer.json;
};
const context = async (agent = 'a') => {
  const answer = await app.get(`${base}/agents/${agent}/context`, user.key);
  expect(answer.status, answer.text).toBe(200);
  return answer.json;
};

/** What the provider gets in a turn of the agent: the system prompt and the tools, as they came over the wire. */
async function sent(agent = 'a') {
  const before = upstream.requests.length;
  const answer = await app.post(`${base}/agents/${agent}/chat`, user.key, { messages: [{ role: 'user', content: 'hello' }] });
  expect(answer.status, answer.text).toBe(200);
  const { messages, tools, model, temperature } = upstream.requests[before]?.body ?? {};
  return { system: messages[0].content as string, role: messages[0].role as string, tools, model, temperature };
}

describe('the context of the next turn', () => {
  test('is byte for byte what the provider then gets, with instructions, templates, a skill and a plugin', async () => {
    const soul = 'You are a lighthouse keeper. ü 漢 😀\n\n\n  Indented, with "quotes" and a tab\t.';
    await put('/agents/a/templates', { 'SOUL.md': soul, 'USER.md': 'Talks to {{user.name}} on {{date}}.' });
    await put('/skills/greeter/file', SKILL, { 'content-type': 'text/markdown' });
    const made = await app.post(`${base}/plugins`, user.key, {
      name: 'weather',
      description: 'Sky',
      tools: [forecast],
      skills: ['greeter'],
    });
    expect(made.status, made.text).toBe(201);
    await put('/agents/a/plugins', { plugin_ids: ['weather'] });

    const shown = await context();
    const got = await sent();
    expect(got.role).toBe('system');
    expect(Buffer.from(shown.system).equals(Buffer.from(got.system))).toBe(true);
    expect(JSON.stringify(shown.tools)).toBe(JSON.stringify(got.tools));
    expect(`openai/${got.model}`).toBe(shown.model);

    for (const text of [
      soul,
      `Talks to ${user.name} on ${new Date().toISOString().slice(0, 10)}.`,
      'Answer in verse.',
      'greeter',
      'Greets people',
    ])
      expect(shown.system).toContain(text);
    expect(shown.tools.at(-1).function).toEqual({
      name: 'forecast',
      description: forecast.description,
      parameters: forecast.parameters,
    });
  });

  test('each part is counted, and the sums are of the parts', async () => {
    const { parts, tools, tool_tokens: ofTools, tokens, system } = await context();
    expect(tokens.encoding).toBe('o200k_base');
    expect(parts.map(({ name }: { name: string }) => name)).toEqual(
      expect.arrayContaining(['identity', 'instructions', 'SOUL.md', 'USER.md']),
    );
    expect(parts.map(({ text }: { text: string }) => text).join('\n\n')).toBe(system);
    for (const part of parts) expect(part).toMatchObject({ characters: part.text.length, tokens: expect.any(Number) });
    const sum = (of: { tokens: number }[]) => of.reduce((total, { tokens: n }) => total + n, 0);
    expect(tokens).toMatchObject({ system: sum(parts), tools: sum(ofTools), total: sum(parts) + sum(ofTools) });
    expect(ofTools.map(({ name }: { name: string }) => name)).toEqual(tools.map((tool: (typeof tools)[0]) => tool.function.name));
    expect(tokens.total).toBeGreaterThan(300);
  });

  test('a change is in it at once, and in the turn after it; what the agent itself wrote too', async () => {
    const before = await context('plain');
    await put('/agents/plain', { instructions: 'Mention the tide.' });
    expect((await context('plain')).system).toBe(
      before.system.replace(/\n\n# Project|$/, (at: string) => `\n\nMention the tide.${at}`),
    );
    upstream.script(
      openai.toolCalls({ id: 'c1', name: 'write_file', pieces: ['{"path":"MEMORY.md","content":"Ebb at four."}'] }),
    );
    await sent('plain');
    const shown = await context('plain');
    expect(shown.system).toContain('Ebb at four.');
    const got = await sent('plain');
    expect(got.system).toBe(shown.system);
    expect(got.tools).toEqual(shown.tools);
  });

  test("a plugin's tool is really run, as bash in the workspace with its arguments as JSON twice", async () => {
    upstream.script(openai.toolCalls({ id: 'c1', name: 'forecast', pieces: ['{"place":"Kiel",', '"days":2}'] }));
    const before = upstream.requests.length;
    await app.post(`${base}/agents/a/chat`, user.key, { messages: [{ role: 'user', content: 'weather?' }] });
    const result = upstream.requests[before + 1]?.body.messages.at(-1);
    expect(result).toMatchObject({ role: 'tool', tool_call_id: 'c1' });
    expect(result.content).toMatch(
      /in: \{"place":"Kiel","days":2\}\nenv: \{"place":"Kiel","days":2\}\n\S+\/workspaces\/a\nwho: a/,
    );
  });

  test('the same in the words of Automatos, at its own path: persona, both tiers, tools', async () => {
    const shown = await context();
    const answer = await app.get('/api/agents/a/assembled-context', user.key);
    expect(answer.status, answer.text).toBe(200);
    const { persona, tier1, tier2, ...rest } = answer.json;
    expect(rest).toMatchObject({
      agent: 'a',
      agent_id: shown.agent_id,
      model: 'openai/gpt-fake',
      system_prompt: shown.system,
      tools: shown.tools,
      plugins_loaded: ['weather'],
      tokens: shown.tokens,
      token_estimate: shown.tokens.total,
    });
    expect(persona.content).toContain('lighthouse keeper');
    expect(persona.content).toContain('Answer in verse.');
    expect(persona.content).not.toContain('Talks to');
    expect(persona.tokens).toBeGreaterThan(10);
    expect(tier1.content).toBe('- weather 1.0.0: Sky (tools: forecast; skills: greeter)');
    expect(tier2.content).toContain('### Tool forecast\n\nSays the weather of a place.');
    expect(tier2.content).toContain('### Skill greeter');
    expect(tier2.tokens).toBeGreaterThan(tier1.tokens);
  });

  test('a plugin that is switched off is out of the next turn', async () => {
    await put('/plugins/weather', { enabled: false });
    const shown = await context();
    expect(shown.tools.map((tool: (typeof shown.tools)[0]) => tool.function.name)).not.toContain('forecast');
    expect((await sent()).tools).toEqual(shown.tools);
    expect((await app.get('/api/agents/a/assembled-context', user.key)).json).toMatchObject({
      plugins_loaded: [],
      tier1: { content: '', tokens: 0 },
    });
  });

  test('an agent that is not there is not found, one on its way is waited for', async () => {
    expect((await app.get(`${base}/agents/never-was/context`, user.key)).status).toBe(404);
    const late = await app.user();
    await app.agent(late, 'late', { model: 'openai/gpt-fake' });
    const answer = await app.get(`/api/v1/users/${late.id}/agents/late/context`, late.key);
    expect(answer.status, answer.text).toBe(200);
    await until(async () => (await app.get(`/api/v1/users/${late.id}/deploy/status`, late.key)).json.settled, 'it to settle');
  });
});
