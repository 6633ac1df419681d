import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { begin, chunk } from './demo-model.js';
import { agent, say, startFixture, until, type Fixture } from './fixture.js';

let fixture: Fixture;
let berth: Fixture['berth'];
let listenPath: string;

beforeAll(async () => {
  listenPath = join(process.env['TMPDIR'] ?? '/tmp', `bg-${process.pid}.sock`);
  fixture = await startFixture({ BERTH_GATEWAY_LISTEN: listenPath });
  berth = fixture.berth;
});

afterAll(() => fixture.close());

describe('before a config', () => {
  test('is live, not ready, and refuses chats', async () => {
    expect(await berth.request('GET', '/healthz')).toMatchObject({ status: 200, json: { ok: true, status: 'live' } });
    expect(await berth.request('GET', '/readyz')).toMatchObject({ status: 503, json: { ready: false, failing: ['config'] } });
    expect(await berth.request('POST', '/v1/chat/completions', say('alpha', 'hi'))).toMatchObject({
      status: 503,
      json: { error: { type: 'unavailable' } },
    });
  });

  test('dials as the contract says', () => {
    expect(berth.dials[0]?.headers).toMatchObject({
      host: 'berth',
      upgrade: 'berth-link',
      authorization: 'Bearer token-of-this-instance',
      'x-berth-protocol': '1',
    });
  });
});

describe('with a config', () => {
  const alpha = agent('alpha', {
    instructions: 'Be brief.',
    name: 'Alpha',
    files: { 'SOUL.md': 'I am calm.', 'skills/x/SKILL.md': 'A skill.' },
  });
  const configure = (agents: object[], version: unknown) => berth.request('PUT', '/berth/v1/config', { version, agents });

  beforeAll(async () => {
    expect(await configure([alpha, agent('beta', { model: 'demo/other', tools: { deny: ['shell'] } })], 3)).toMatchObject({
      status: 200,
      json: { version: 3, agents: ['alpha', 'beta'] },
    });
  });

  test('is ready and lists its agents', async () => {
    expect(await berth.request('GET', '/readyz')).toMatchObject({ status: 200, json: { ready: true } });
    const { json } = await berth.request('GET', '/v1/models');
    expect(json).toMatchObject({ object: 'list', data: [{ id: 'openclaw/alpha', object: 'model' }, { id: 'openclaw/beta' }] });
  });

  test('streams an answer as OpenAI chunks', async () => {
    const answer = await berth.chat(
      { ...say('alpha', 'hello there'), stream_options: { include_usage: true } },
      { 'x-berth-turn': 'trn_1' },
    );
    expect(answer).toMatchObject({ status: 200, said: 'You said: hello there', finish: 'stop', done: true });
    expect(answer.headers['content-type']).toContain('text/event-stream');
    expect(answer.usage).toEqual({ prompt_tokens: 10, completion_tokens: 5, total_tokens: 15 });
    expect(answer.events[0]?.data).toMatchObject({
      id: 'chatcmpl_trn_1',
      object: 'chat.completion.chunk',
      model: 'openclaw/alpha',
      choices: [{ index: 0, delta: { role: 'assistant' }, finish_reason: null }],
    });
    expect(answer.events.filter(({ data }) => data.choices[0]?.delta.content)).toHaveLength(4);
    expect(berth.modelRequests.at(-1)).toMatchObject({
      headers: { 'x-berth-agent': 'alpha', 'x-berth-turn': 'trn_1', authorization: 'Bearer token-of-this-instance' },
      body: { model: 'demo/echo', stream: true, stream_options: { include_usage: true } },
    });
  });

  test('leaves usage out unless asked', async () => {
    expect((await berth.chat(say('alpha', 'hi'))).usage).toBeUndefined();
  });

  test('answers whole when not streaming', async () => {
    const answer = await berth.request('POST', '/v1/chat/completions', say('beta', 'hi'));
    expect(answer).toMatchObject({
      status: 200,
      json: {
        object: 'chat.completion',
        model: 'openclaw/beta',
        choices: [{ index: 0, message: { role: 'assistant', content: 'You said: hi' }, finish_reason: 'stop' }],
        usage: { prompt_tokens: 10, completion_tokens: 5, total_tokens: 15 },
      },
    });
    expect(berth.modelRequests.at(-1)?.body.model).toBe('demo/other');
  });

  test('makes the system prompt of instructions, workspace files and system messages', async () => {
    const { said } = await berth.chat({
      model: 'openclaw/alpha',
      messages: [
        { role: 'system', content: 'From the client.' },
        { role: 'user', content: '/system' },
      ],
    });
    expect(said).toMatch(/^You are Alpha, .*Be brief\..*# Project Context.*## SOUL\.md\n\nI am calm\..*From the client\.$/s);
    expect(said).not.toContain('A skill.');
    expect(readFileSync(join(fixture.gateway.dataDir, 'workspaces/alpha/skills/x/SKILL.md'), 'utf8')).toBe('A skill.');
  });

  test("puts its files back and shows the agent's own, cut where too long", async () => {
    const dir = join(fixture.gateway.dataDir, 'workspaces/alpha');
    writeFileSync(join(dir, 'SOUL.md'), 'I am wild.');
    writeFileSync(join(dir, 'MEMORY.md'), `Likes tea. ${'x'.repeat(30_000)}`);
    const { said } = await berth.chat(say('alpha', '/system'));
    expect(said).toContain('I am calm.');
    expect(said).toContain('Likes tea.');
    expect(said).toContain('[MEMORY.md is cut here: 20000 of 30011 characters are shown.]');
    expect(readFileSync(join(dir, 'SOUL.md'), 'utf8')).toBe('I am calm.');
  });

  test('offers the tools that are not denied', async () => {
    await berth.chat(say('beta', 'hi'));
    const names = berth.modelRequests.at(-1)?.body.tools?.map((tool) => tool.function.name);
    expect(names).toEqual(['read_file', 'write_file', 'edit_file', 'list_files', 'fetch_url', 'keep_awake']);
  });

  test("passes model settings on, the request's before the agent's", async () => {
    await configure([alpha, agent('beta', { sampling: { temperature: 0.2, max_tokens: 50 } })], 3);
    await berth.chat(say('beta', 'hi', { temperature: 1, stop: ['END'], seed: 7, n: 3 }));
    expect(berth.modelRequests.at(-1)?.body).toMatchObject({ temperature: 1, max_tokens: 50, stop: ['END'], seed: 7 });
    expect(berth.modelRequests.at(-1)?.body).not.toHaveProperty('n');
  });

  test.each([
    ['no JSON', '{', 'body'],
    ['a list', '[]', 'body'],
    ['nothing', '', 'body'],
    ['deep nesting', `{"messages":[{"role":"user","content":${'['.repeat(50_000)}${']'.repeat(50_000)}}]}`, 'nested|content'],
    ['no messages', { model: 'openclaw/alpha' }, 'messages'],
    ['empty messages', { model: 'openclaw/alpha', messages: [] }, 'messages'],
    ['an unknown role', { model: 'openclaw/alpha', messages: [{ role: 'boss', content: 'x' }] }, 'messages\\[0\\]\\.role'],
    ['a number as content', { model: 'openclaw/alpha', messages: [{ role: 'user', content: 7 }] }, 'messages\\[0\\]\\.content'],
    ['a null message', { model: 'openclaw/alpha', messages: [null] }, 'messages\\[0\\]'],
    ['an assistant at the end', { model: 'openclaw/alpha', messages: [{ role: 'assistant', content: 'x' }] }, 'messages'],
    ['an unknown agent', say('nobody', 'x'), "Unknown agent 'nobody'\\."],
    ['another model', { model: 'gpt-4', messages: [{ role: 'user', content: 'x' }] }, 'model'],
    ['no agent named where there are two', { messages: [{ role: 'user', content: 'x' }] }, 'model'],
    ['a hot temperature', say('alpha', 'x', { temperature: 9 }), 'temperature'],
    ['a wrong stream', say('alpha', 'x', { stream: 'yes' }), 'stream'],
    ['a wrong user', say('alpha', 'x', { user: 5 }), 'user'],
    [
      'a function named as a tool',
      say('alpha', 'x', { tools: [{ type: 'function', function: { name: 'shell' } }] }),
      'tools\\[0\\]',
    ],
  ])('refuses %s with 400 naming the field', async (_what, body, field) => {
    const answer = await berth.request('POST', '/v1/chat/completions', body);
    expect(answer).toMatchObject({
      status: 400,
      json: { error: { type: 'invalid_request_error', message: expect.stringMatching(field) } },
    });
  });

  test('refuses a body over 20 MB with 413 and goes on', async () => {
    const answer = await berth.request('POST', '/v1/chat/completions', Buffer.alloc(20 * 1024 * 1024 + 1, 'x'));
    expect(answer).toMatchObject({ status: 413, json: { error: { type: 'invalid_request_error' } } });
    expect((await berth.chat(say('alpha', 'still there?'))).said).toBe('You said: still there?');
  });

  test('answers unknown paths with 404 and wrong methods with 405', async () => {
    expect(await berth.request('GET', '/nowhere')).toMatchObject({ status: 404, json: { error: { type: 'not_found' } } });
    expect(await berth.request('DELETE', '/v1/models')).toMatchObject({ status: 405, headers: { allow: 'GET' } });
    expect(await berth.request('GET', '/v1/chat/completions')).toMatchObject({ status: 405, headers: { allow: 'POST' } });
  });

  test.each([
    ['version', { agents: [] }],
    ['version', { version: 1.5, agents: [] }],
    ['agents', { version: 9 }],
    ['agents\\[0\\]\\.id', { version: 9, agents: [agent('../up')] }],
    ['agents\\[1\\]\\.id', { version: 9, agents: [agent('a'), agent('a')] }],
    ['agents\\[0\\]\\.incarnation', { version: 9, agents: [{ id: 'a', model: 'x/y' }] }],
    ['agents\\[0\\]\\.model', { version: 9, agents: [agent('a', { model: 'gpt' })] }],
    ['agents\\[0\\]\\.files', { version: 9, agents: [agent('a', { files: { '../x': 'y' } })] }],
    ['agents\\[0\\]\\.files', { version: 9, agents: [agent('a', { files: { '/etc/x': 'y' } })] }],
    ['agents\\[0\\]\\.maxSteps', { version: 9, agents: [agent('a', { maxSteps: 0 })] }],
    ['agents\\[0\\]\\.tools\\.deny', { version: 9, agents: [agent('a', { tools: { deny: 'shell' } })] }],
    ['agents\\[0\\]\\.sampling\\.temperature', { version: 9, agents: [agent('a', { sampling: { temperature: 3 } })] }],
  ])('refuses a config with a wrong %s and keeps the old one', async (field, config) => {
    const answer = await berth.request('PUT', '/berth/v1/config', config);
    expect(answer).toMatchObject({ status: 400, json: { error: { message: expect.stringMatching(field) } } });
    expect((await berth.request('GET', '/v1/models')).json.data).toHaveLength(2);
  });

  test('refuses an older version with 409', async () => {
    expect((await configure([], 2)).status).toBe(409);
    expect((await configure([alpha, agent('beta')], 3)).status).toBe(200);
  });

  test('forgets an agent that is gone and one of another incarnation', async () => {
    await configure([alpha, agent('beta')], 4);
    await berth.chat(say('beta', 'my name is Bo', { user: 'u' }));
    const workspace = join(fixture.gateway.dataDir, 'workspaces/beta');
    writeFileSync(join(workspace, 'notes.txt'), 'secret');
    expect((await berth.chat(say('beta', '/history', { user: 'u' }))).said).toBe('my name is Bo');

    await configure([alpha, agent('beta', { incarnation: 'i2' })], 5);
    expect(existsSync(join(workspace, 'notes.txt'))).toBe(false);
    expect((await berth.chat(say('beta', '/history', { user: 'u' }))).said).toBe('');

    writeFileSync(join(workspace, 'notes.txt'), 'secret');
    await configure([alpha], 6);
    expect(existsSync(workspace)).toBe(false);
    expect((await berth.request('POST', '/v1/chat/completions', say('beta', 'x'))).status).toBe(400);
    expect((await berth.chat({ model: 'openclaw', messages: [{ role: 'user', content: 'only one' }] })).said).toBe(
      'You said: only one',
    );
    await configure([alpha, agent('beta', { incarnation: 'i2' })], 7);
    expect((await berth.chat(say('beta', '/history', { user: 'u' }))).said).toBe('');
  });

  test("removes a file it owns no more and leaves the agent's own", async () => {
    const dir = join(fixture.gateway.dataDir, 'workspaces/gamma');
    await configure([alpha, agent('gamma', { files: { 'SOUL.md': 'a', 'USER.md': 'b' } })], 8);
    mkdirSync(join(dir, 'own'));
    await configure([alpha, agent('gamma', { files: { 'SOUL.md': 'c' } })], 9);
    expect(readFileSync(join(dir, 'SOUL.md'), 'utf8')).toBe('c');
    expect(existsSync(join(dir, 'USER.md'))).toBe(false);
    expect(existsSync(join(dir, 'own'))).toBe(true);
  });

  test('ends the turns of an agent that is removed', async () => {
    await configure([alpha, agent('doomed')], 10);
    const turn = berth.chat(say('doomed', '/slow 1000 20', { user: 'u' }));
    await until('the model is asked', () => berth.modelRequests.at(-1)?.headers['x-berth-agent'] === 'doomed');
    await configure([alpha], 11);
    expect((await turn).error).toMatchObject({ message: 'The agent was removed.' });
    expect(existsSync(join(fixture.gateway.dataDir, '.berth/agents/doomed'))).toBe(false);
  });

  test('reports a model that fails in the stream, and with 502 where it does not stream', async () => {
    berth.model = (_call, response) => {
      response.writeHead(429, { 'content-type': 'application/json' });
      response.end('{"error":{"message":"No tokens left this month.","type":"rate_limit_error","code":"budget"}}');
    };
    const error = { message: 'No tokens left this month.', type: 'rate_limit_error', code: 'budget' };
    expect(await berth.chat(say('alpha', 'x'))).toMatchObject({ status: 200, error, done: true });
    expect(await berth.request('POST', '/v1/chat/completions', say('alpha', 'x'))).toMatchObject({
      status: 429,
      json: { error },
    });

    berth.model = (_call, response) => {
      begin(response);
      chunk(response, { content: 'Half an ' });
      response.write('data: {"error":{"message":"The provider broke off.","type":"api_error","code":"cut"}}\n\n');
      response.end('data: [DONE]\n\n');
    };
    const cut = { message: 'The provider broke off.', type: 'api_error', code: 'cut' };
    expect(await berth.chat(say('alpha', 'x'))).toMatchObject({ said: 'Half an ', error: cut, done: true });
    expect(await berth.request('POST', '/v1/chat/completions', say('alpha', 'x'))).toMatchObject({
      status: 502,
      json: { error: cut },
    });
  });

  test.each([
    ['ends in the midst', (response: any) => response.end(), 'cut'],
    ['loses its connection', (response: any) => response.destroy(), 'cut'],
    ['sends garbage', (response: any) => response.end('data: <html>\n\n'), 'garbage'],
  ])('reports a model that %s', async (_what, end, code) => {
    berth.model = (_call, response) => {
      begin(response);
      chunk(response, { content: 'Half' });
      setTimeout(() => end(response), 20);
    };
    expect(await berth.chat(say('alpha', 'x'))).toMatchObject({ said: 'Half', error: { code }, done: true });
  });
});

describe('on its own port', () => {
  const call = (path: string, headers: Record<string, string> = {}, method = 'GET', body?: string) =>
    new Promise<{ status: number; text: string }>((resolve, reject) => {
      const request = httpRequest({ socketPath: listenPath, path, headers, method }, (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (piece: string) => (text += piece));
        response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
      });
      request.on('error', reject);
      request.end(body);
    });

  test('asks for the token, but for health', async () => {
    expect((await call('/healthz')).status).toBe(200);
    expect((await call('/readyz')).status).toBe(200);
    expect(await call('/v1/models')).toMatchObject({
      status: 401,
      text: '{"error":{"message":"Unauthorized","type":"unauthorized"}}',
    });
    expect((await call('/nowhere', { authorization: 'Bearer wrong' })).status).toBe(401);
    expect((await call('/v1/models', { authorization: `Bearer ${fixture.folder.token}` })).status).toBe(200);
  });

  test('streams the same way', async () => {
    berth.model = (_request, response) => {
      begin(response);
      chunk(response, { content: 'over HTTP/1.1' }, 'stop');
      response.end('data: [DONE]\n\n');
    };
    const headers = { authorization: `Bearer ${fixture.folder.token}` };
    const { text } = await call('/v1/chat/completions', headers, 'POST', JSON.stringify(say('alpha', 'x', { stream: true })));
    expect(text).toContain('"content":"over HTTP/1.1"');
    expect(text.endsWith('data: [DONE]\n\n')).toBe(true);
  });
});

test('logs JSON lines without what was said or the token', () => {
  const lines = fixture.gateway.output
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  expect(lines.some(({ msg, agent: id }) => msg === 'turn ended' && id === 'alpha')).toBe(true);
  for (const word of ['hello there', 'Be brief', 'You said', fixture.folder.token])
    expect(fixture.gateway.output).not.toContain(word);
});
