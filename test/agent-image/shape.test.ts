import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { demoModel } from './demo-model.js';
import { agent, say, startFixture, until, type Fixture } from './fixture.js';
import { digested } from './skill-package.js';

const BUILT_IN = ['read_file', 'write_file', 'edit_file', 'list_files', 'shell', 'fetch_url', 'keep_awake'];
const EMPTY = digested(Buffer.alloc(1024));
const today = new Date().toISOString().slice(0, 10);

let fixture: Fixture;
let berth: Fixture['berth'];
let version = 0;

beforeAll(async () => {
  fixture = await startFixture();
  berth = fixture.berth;
});
beforeEach(() => {
  berth.model = demoModel;
  berth.modelRequests = [];
});
afterAll(() => fixture.close());

async function configure(...agents: object[]): Promise<void> {
  const answer = await berth.configure(agents, ++version);
  if (answer.status !== 200) throw new Error(answer.text);
}

/** Runs one tool call; what the model was told of it. */
async function call(name: string, args: object, agentId = 'a'): Promise<string> {
  await berth.chat(say(agentId, `/tool ${name} ${JSON.stringify(args)}`));
  return String(berth.modelRequests.at(-1)?.body.messages.at(-1)?.content);
}

const toolNames = () => berth.modelRequests.at(-1)?.body.tools?.map((tool) => tool.function.name);
const inWorkspace = (...path: string[]) => join(fixture.gateway.dataDir, 'workspaces', ...path);

const greet = {
  name: 'greet',
  description: 'Greets somebody.',
  parameters: { type: 'object', properties: { who: { type: 'string' } }, required: ['who'] },
  command: 'printf "%s|%s|%s" "$(jq -r .who)" "$(jq -r .who <<<"$BERTH_ARGS")" "$PWD"',
};

describe('the environment of tools', () => {
  test('has env and secrets, secrets first, and nothing of ours is replaced', async () => {
    const env = { TONE: 'calm', TOKEN: 'from env', LANG: 'de', PATH: '/nowhere', HOME: '/nowhere', BERTH_AGENT: 'other' };
    const secrets = { TOKEN: 'from secrets', PWD: '/nowhere', BERTH_SOCKET: 'x', __proto__x: 'y' };
    await configure(agent('a', { env, secrets }));
    const text = await call('shell', { command: 'env' });
    const seen = new Map(text.split('\n').map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]));
    expect(Object.fromEntries(seen)).toMatchObject({
      TONE: 'calm',
      TOKEN: 'from secrets',
      LANG: 'de',
      HOME: join(fixture.gateway.dataDir, 'homes/a'),
      PWD: inWorkspace('a'),
      BERTH_AGENT: 'a',
      __proto__x: 'y',
    });
    expect(seen.get('PATH')).toBe(process.env['PATH']);
    expect(seen.has('BERTH_SOCKET')).toBe(false);
  });

  test('keeps the proxy of the instance, whatever a config says', async () => {
    const proxied = await startFixture({ BERTH_PROXY_PORT: '0' });
    try {
      const wishes = { HTTP_PROXY: 'http://evil', https_proxy: 'http://evil', NO_PROXY: '*', NODE_USE_ENV_PROXY: '0' };
      await proxied.berth.configure([agent('a', { env: wishes, secrets: wishes })]);
      const answer = await proxied.berth.chat(say('a', '/tool shell {"command":"env | grep -i proxy"}'));
      expect(answer.said).toContain('HTTP_PROXY=http://127.0.0.1:');
      expect(answer.said).toContain('NO_PROXY=localhost');
      expect(answer.said).not.toMatch(/evil|\*|NODE_USE_ENV_PROXY=0/);
    } finally {
      await proxied.close();
    }
  });

  test('is new for the next command of a running turn, and left as it is for a running command', async () => {
    await configure(agent('a', { secrets: { TOKEN: 'first-value' } }));
    berth.model = ({ body }, response) => {
      const results = body.messages.filter(({ role }) => role === 'tool').length;
      const command = [
        `touch begun; until [ -e go ]; do sleep 0.01; done; echo "$TOKEN"`, // still runs when the new config comes
        'echo "$TOKEN"',
      ][results];
      const asked = command === undefined ? 'done' : `/tool shell ${JSON.stringify({ command })}`;
      return demoModel({ body: { messages: [{ role: 'user', content: asked }] } } as never, response);
    };
    const turn = berth.chat(say('a', 'go'), { 'x-berth-events': '1' });
    await until('the first command runs', () => existsSync(inWorkspace('a', 'begun')));
    await configure(agent('a', { secrets: { TOKEN: 'second-value' } }));
    writeFileSync(inWorkspace('a', 'go'), '');
    const previews = (await turn).events.filter(({ event }) => event === 'tool_result').map(({ data }) => data.preview);
    expect(previews).toEqual(['first-value', 'second-value']);
  });

  const secret = 'Zx9$ "quoted" secret+äß?';
  const forms = [secret, Buffer.from(secret).toString('base64'), encodeURIComponent(secret)];

  test('reaches neither the disk nor the log', async () => {
    await configure(agent('a', { secrets: { TOKEN: secret }, commands: [greet], files: { 'SOUL.md': 'calm' } }));
    expect(await call('shell', { command: 'test -n "$TOKEN" && echo it is there' })).toBe('it is there');
    const written = filesBelow(fixture.gateway.dataDir).map((path) => readFileSync(path, 'latin1'));
    expect(written.some((text) => text.includes('"incarnation"'))).toBe(true);
    for (const form of forms) {
      for (const text of written) expect(text).not.toContain(Buffer.from(form).toString('latin1'));
      expect(fixture.gateway.output).not.toContain(form);
    }
  });

  test('is taken out of a log line that holds it all the same', async () => {
    await configure(agent('a', { secrets: { TOKEN: secret } }), agent('b'));
    // What cannot be written is logged by its name, and a folder is in the way of each of these.
    const names = [...forms, Buffer.from(`user:${secret}`).toString('base64')].filter((name) => !name.includes('/'));
    expect(names).toHaveLength(4);
    for (const name of names) mkdirSync(inWorkspace('b', name, 'x'), { recursive: true });
    const logged = fixture.gateway.output.length;
    const files = Object.fromEntries(names.map((name) => [name, 'text']));
    await configure(agent('a', { secrets: { TOKEN: secret } }), agent('b', { files }));
    const lines = fixture.gateway.output.slice(logged);
    expect(lines.match(/"file":"[^"]*\[redacted\][^"]*"/g)).toHaveLength(4);
    for (const form of forms) expect(lines).not.toContain(JSON.stringify(form).slice(1, -1));
  });

  test.each([
    ['env', { env: { 'NOT-A-NAME': 'x' } }],
    ['env', { env: { '1ST': 'x' } }],
    ['env\\.A', { env: { A: 7 } }],
    ['secrets\\.A', { secrets: { A: 'sesame\0' } }],
    ['secrets\\.A', { secrets: { A: 'ä'.repeat(40_000) } }],
    ['secrets', { secrets: Object.fromEntries(Array.from({ length: 9 }, (_, i) => [`A${i}`, 'x'.repeat(60_000)])) }],
    ['commands\\[0\\]\\.name', { commands: [{ ...greet, name: 'a b' }] }],
    ['commands\\[1\\]\\.name', { commands: [greet, greet] }],
    ['commands\\[0\\]\\.parameters', { commands: [{ ...greet, parameters: [] }] }],
    ['commands\\[0\\]\\.parameters\\.type', { commands: [{ ...greet, parameters: { type: 'array' } }] }],
    ['commands\\[0\\]\\.command', { commands: [{ ...greet, command: '' }] }],
    ['tools\\.allow', { tools: { allow: 'shell' } }],
    ['sampling\\.seed', { sampling: { seed: 'x' } }],
    ['sampling\\.presence_penalty', { sampling: { presence_penalty: 3 } }],
    ['sampling\\.stop', { sampling: { stop: ['a', 'b', 'c', 'd', 'e'] } }],
    ['seeds', { seeds: { '../x': 'y' } }],
    ...BUILT_IN.map((name): [string, object] => ['commands\\[0\\]\\.name', { commands: [{ ...greet, name }] }]),
  ])('is refused with its field where %s is wrong, and never echoed', async (field, wrong) => {
    const answer = await berth.configure([agent('a', wrong)], version + 1);
    expect(answer).toMatchObject({
      status: 400,
      json: { error: { message: expect.stringMatching(`^agents\\[0\\]\\.${field}`) } },
    });
    expect(answer.text).not.toContain('sesame');
  });
});

test('the most that Berth lets a user say of one agent fits into a config', async () => {
  const secrets = Object.fromEntries(Array.from({ length: 4 }, (_, i) => [`S${i}`, 'x'.repeat(48 * 1024)]));
  const env = Object.fromEntries(Array.from({ length: 4 }, (_, i) => [`E${i}`, '\u6f22'.repeat(8_100)]));
  const commands = Array.from({ length: 100 }, (_, i) => ({ ...greet, name: `greet_${i}` }));
  await configure(agent('a', { secrets, env, commands }));
});

describe('commands of plugins', () => {
  test('are offered with their schema and get their arguments on standard input and in the environment', async () => {
    await configure(agent('a', { commands: [greet] }));
    expect(await call('greet', { who: 'Ö "x" $HOME' })).toBe(`Ö "x" $HOME|Ö "x" $HOME|${inWorkspace('a')}`);
    const { command: _command, ...schema } = greet;
    expect(berth.modelRequests[0]?.body.tools?.at(-1)).toEqual({ type: 'function', function: schema });
  });

  test('get arguments too long for a variable on standard input alone, and need not read them', async () => {
    const count = { ...greet, name: 'count', command: 'wc -c; echo "${BERTH_ARGS-none}"' };
    await configure(agent('a', { commands: [count, { ...greet, name: 'deaf', command: 'exit 4' }] }));
    const who = 'x'.repeat(300_000);
    expect(await call('count', { who })).toBe(`${JSON.stringify({ who }).length}\nnone`);
    expect(await call('deaf', { who })).toBe('[exit code 4]');
  });

  test('are allowed and denied by name as other tools are', async () => {
    const commands = [greet, { ...greet, name: 'part' }];
    await configure(
      agent('a', { commands, tools: { deny: ['shell', 'part'] } }),
      agent('b', { commands, tools: { allow: ['part', 'read_file', 'shell'], deny: ['shell'] } }),
      agent('c', { commands, tools: { allow: [] } }),
      agent('d', { commands, tools: { deny: ['*'] } }),
    );
    await berth.chat(say('a', 'x'));
    expect(toolNames()).toEqual(['read_file', 'write_file', 'edit_file', 'list_files', 'fetch_url', 'keep_awake', 'greet']);
    await berth.chat(say('b', 'x'));
    expect(toolNames()).toEqual(['read_file', 'part']);
    for (const id of ['c', 'd']) {
      await berth.chat(say(id, 'x'));
      expect(toolNames()).toBeUndefined();
    }
    expect(await call('greet', { who: 'x' }, 'b')).toContain('There is no tool of that name. The tools are: read_file, part.');
  });

  test('are not there where the shell is off', async () => {
    const bare = await startFixture({ BERTH_SHELL: 'off' });
    try {
      await bare.berth.configure([agent('a', { commands: [greet] })]);
      const { json } = await bare.berth.request('GET', '/berth/v1/agents/a/context');
      expect(json.tools.map((tool: any) => tool.function.name)).toEqual(BUILT_IN.filter((name) => name !== 'shell'));
    } finally {
      await bare.close();
    }
  });
});

describe('workspace files', () => {
  test('have the day of the turn in place of {{date}}', async () => {
    const files = { 'SOUL.md': 'Today: {{date}} and {{ date }}.', 'notes/day.txt': '{{date}}', 'USER.md': '{{name}}' };
    await configure(agent('a', { files, seeds: { 'MEMORY.md': 'Born {{date}}.' } }));
    expect(readFileSync(inWorkspace('a', 'notes/day.txt'), 'utf8')).toBe(today);
    writeFileSync(inWorkspace('a', 'notes/day.txt'), 'mine');
    const { said } = await berth.chat(say('a', '/system'));
    expect(said).toContain(`Today: ${today} and ${today}.`);
    expect(said).toContain('{{name}}');
    expect(said).toContain(`Born ${today}.`);
    expect(readFileSync(inWorkspace('a', 'notes/day.txt'), 'utf8')).toBe(today);
  });

  test("are the agent's own where they were only seeded, MEMORY.md always", async () => {
    await configure(agent('a', { files: { 'MEMORY.md': 'first' }, seeds: { 'list.txt': 'empty' } }));
    const kept = { 'MEMORY.md': 'what I know', 'list.txt': 'milk' };
    for (const [name, text] of Object.entries(kept)) writeFileSync(inWorkspace('a', name), text);
    await configure(agent('a', { files: { 'MEMORY.md': 'second' }, seeds: { 'list.txt': 'again' } }));
    expect((await berth.chat(say('a', '/system'))).said).toContain('what I know');
    await configure(agent('a'));
    for (const [name, text] of Object.entries(kept)) expect(readFileSync(inWorkspace('a', name), 'utf8')).toBe(text);
  });

  test('are not written or removed through links that the agent has planted', async () => {
    const outside = mkdtempSync(join(tmpdir(), 'bo-'));
    try {
      for (const name of ['x.md', 'y.md']) writeFileSync(join(outside, name), 'theirs');
      await configure(agent('e', { files: { 'dir/x.md': 'ours', 'gone/y.md': 'ours' }, seeds: { 'seed/y.md': 'ours' } }));
      for (const name of ['dir', 'gone', 'seed']) {
        rmSync(inWorkspace('e', name), { recursive: true });
        symlinkSync(outside, inWorkspace('e', name));
      }
      await configure(agent('e', { files: { 'dir/x.md': 'new' }, seeds: { 'seed/y.md': 'ours' } }));
      await berth.chat(say('e', 'x'));
      for (const name of ['x.md', 'y.md']) expect(readFileSync(join(outside, name), 'utf8')).toBe('theirs');
      expect(readFileSync(inWorkspace('e', 'dir/x.md'), 'utf8')).toBe('new');

      rmSync(inWorkspace('e'), { recursive: true });
      symlinkSync(outside, inWorkspace('e'));
      await configure(agent('e', { files: { 'x.md': 'new' } }));
      expect(readFileSync(join(outside, 'x.md'), 'utf8')).toBe('theirs');
      expect(readFileSync(inWorkspace('e', 'x.md'), 'utf8')).toBe('new');
    } finally {
      rmSync(outside, { recursive: true, force: true });
    }
  });
});

describe('a files-only config', () => {
  test('refuses chats and serves the rest, until another config comes', async () => {
    const agents = [agent('a', { files: { 'SOUL.md': 'calm' } })];
    expect(await berth.request('PUT', '/berth/v1/config', { version: ++version, mode: 'files', agents })).toMatchObject({
      status: 200,
    });
    expect((await berth.request('GET', '/readyz')).status).toBe(200);
    expect((await berth.request('GET', '/berth/v1/agents/a/context')).status).toBe(200);
    expect(await berth.request('POST', '/v1/chat/completions', say('a', 'x'))).toMatchObject({
      status: 503,
      json: { error: { type: 'unavailable', code: 'files_only' } },
    });
    expect(berth.modelRequests).toEqual([]);
    await configure(...agents);
    expect((await berth.chat(say('a', 'x'))).said).toBe('You said: x');
    const wrong = await berth.request('PUT', '/berth/v1/config', { version: version + 1, mode: 'half', agents });
    expect(wrong).toMatchObject({ status: 400, json: { error: { message: expect.stringMatching(/^mode/) } } });
  });
});

describe('the context', () => {
  const context = async (id: string) => (await berth.request('GET', `/berth/v1/agents/${id}/context`)).json;

  test.each([
    ['nothing but a model', {}],
    [
      'everything',
      {
        name: 'Ada "the" Ä\u2028',
        instructions: 'Be brief.\n\nAlways.',
        files: { 'SOUL.md': 'On {{date}} I am calm. 😀', 'AGENTS.md': '# Rules\n\nNone.', 'USER.md': 'x'.repeat(30_000) },
        seeds: { 'MEMORY.md': 'Likes tea.' },
        env: { TONE: 'calm' },
        secrets: { TOKEN: 'sesame-open' },
        commands: [greet, { ...greet, name: 'part' }],
        skills: [
          { name: 'shown', digest: EMPTY.digest, description: 'Ä "quoted"\nskill', requires: { env: ['TOKEN'] } },
          { name: 'hidden', digest: EMPTY.digest, description: 'x', requires: { env: ['UNSET'] } },
        ],
        tools: { allow: ['read_file', 'shell', 'greet', 'part'], deny: ['part'] },
        sampling: {
          temperature: 0.3,
          top_p: 0.9,
          max_tokens: 99,
          frequency_penalty: 0.1,
          presence_penalty: -0.1,
          seed: 7,
          stop: ['END'],
        },
      },
    ],
    ['no tools', { tools: { deny: ['*'] }, sampling: { max_completion_tokens: 5 } }],
  ])('of an agent with %s is what its model is sent, byte for byte', async (_what, more) => {
    await berth.request('PUT', `/berth/v1/packages/${EMPTY.digest}`, EMPTY.tar);
    await configure(agent('a', more));
    const before = await context('a');
    await berth.chat(say('a', 'hi'));
    const sent = berth.modelRequests.at(-1)?.body as any;
    expect(before.model).toBe(sent.model);
    expect(Buffer.from(before.system)).toEqual(Buffer.from(sent.messages[0].content));
    expect(JSON.stringify(before.tools)).toBe(JSON.stringify(sent.tools ?? []));
    const { model: _model, messages: _messages, tools: _tools, stream: _stream, stream_options: _options, ...sampling } = sent;
    expect(before.sampling).toEqual(sampling);
    expect(before.parts.map(({ text }: { text: string }) => text).join('\n\n')).toBe(before.system);
    expect(before).toMatchObject({
      agent: 'a',
      hidden_skills: 'skills' in more ? [{ name: 'hidden', why: expect.any(String) }] : [],
    });
    expect(JSON.stringify(before)).not.toContain('sesame-open');
    expect(await context('a')).toEqual(before);
  });

  test('names its parts in the order of the prompt', async () => {
    await configure(agent('a', { instructions: 'x', files: { 'SOUL.md': 's', 'AGENTS.md': 'a', 'TOOLS.md': 'not shown' } }));
    const { parts } = await context('a');
    const names = ['identity', 'tools', 'instructions', 'project_context', 'AGENTS.md', 'SOUL.md'];
    expect(parts.map(({ name }: { name: string }) => name)).toEqual(expect.arrayContaining(names));
    expect(parts.map(({ name }: { name: string }) => name).filter((name: string) => names.includes(name))).toEqual(names);
  });

  test('shows a changed file of the agent at once, and is 404 for an agent that is not there', async () => {
    writeFileSync(inWorkspace('a', 'IDENTITY.md'), 'I am new.');
    expect((await context('a')).system).toContain('I am new.');
    expect(await berth.request('GET', '/berth/v1/agents/nobody/context')).toMatchObject({
      status: 404,
      json: { error: { code: 'not_found' } },
    });
    expect(await berth.request('POST', '/berth/v1/agents/a/context', {})).toMatchObject({
      status: 405,
      headers: { allow: 'GET' },
    });
  });

  test("has a request's bound on the answer alone, whichever of its names it has", async () => {
    await configure(agent('a', { sampling: { max_tokens: 10, temperature: 0.5 } }));
    await berth.chat(say('a', 'x', { max_completion_tokens: 20 }));
    expect(berth.modelRequests.at(-1)?.body).toMatchObject({ max_completion_tokens: 20, temperature: 0.5 });
    expect(berth.modelRequests.at(-1)?.body).not.toHaveProperty('max_tokens');
  });
});

function filesBelow(dir: string): string[] {
  return readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

describe('the time that an agent asks for', () => {
  const busy = async () => (await berth.request('GET', '/berth/v1/activity')).json.busy_s;

  test('is what Berth is told, the latest word of each agent, and goes with the agent', async () => {
    await configure(agent('a'), agent('b'));
    expect(await busy()).toBe(0);
    expect(await call('keep_awake', { minutes: 20 })).toContain('20 minutes');
    expect(await busy()).toBeGreaterThan(1_190);
    expect(await busy()).toBeLessThanOrEqual(1_200);
    await call('keep_awake', { minutes: 2 });
    await call('keep_awake', { minutes: 1 }, 'b');
    expect(await busy()).toBeGreaterThan(110);
    expect(await busy()).toBeLessThanOrEqual(120);
    await configure(agent('b'));
    expect(await busy()).toBeLessThanOrEqual(60);
    await configure(agent('a'));
    expect(await busy()).toBe(0);
  });

  test('is from 1 to 60 whole minutes', async () => {
    await configure(agent('a'));
    for (const minutes of [0, 61, 1.5, '5', null, undefined])
      expect(await call('keep_awake', { minutes })).toContain('Error: minutes');
    expect(await busy()).toBe(0);
  });

  test('is asked for by a turn that runs too', async () => {
    await configure(agent('a'));
    const turn = berth.chat(say('a', '/slow 40 50'));
    await until('the turn to count', async () => (await busy()) > 0);
    await turn;
    expect(await busy()).toBe(0);
  });
});
