import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { skillMd, zip } from '../support/archives.js';
import { FakeClawHub } from '../support/fake-clawhub.js';

// An agent with a real gateway really follows a skill: it reads it with the read tool and runs its script with the shell tool.

const SCRIPT = '#!/bin/bash\necho "answer: $(( $1 * 2 ))"\n';
const double = (more = '', body = 'Run `bash skills/double/scripts/double.sh N`.') =>
  zip([
    { name: 'SKILL.md', bytes: skillMd('double', more, body) },
    { name: 'scripts/double.sh', bytes: SCRIPT, mode: 0o100755 },
  ]);

describe.each([
  { runtime: 'process', database: 'pglite' },
  { runtime: 'docker', database: 'postgres' },
] as const)('skills of agents in a $runtime', ({ runtime, database }) => {
  let app: TestApp;
  let registry: FakeClawHub;
  let user: { id: string; key: string };
  let conversation: string | undefined;

  beforeAll(async () => {
    registry = await FakeClawHub.start({
      owner: 'ada',
      slug: 'weather',
      versions: [{ version: '1.0.0', files: { 'SKILL.md': skillMd('weather'), 'look.sh': '#!/bin/bash\necho sunny\n' } }],
    });
    app = await startApp({ database, runtime, env: { CLAWHUB_URL: registry.url } });
    user = await app.user();
    await app.agent(user, 'a');
    await app.agent(user, 'b');
    await app.ready(user);
  });
  afterAll(async () => {
    await app.stop();
    await registry.stop();
  });

  /** What the agent answers; all turns of `a` are in one conversation. */
  async function say(content: string, agent = 'a'): Promise<string> {
    const id = agent === 'a' ? conversation : undefined;
    const body = { messages: [{ role: 'user', content }], ...(id === undefined ? {} : { conversation_id: id }) };
    const answer = await app.post(`/api/v1/agents/${agent}/chat`, user.key, body);
    expect(answer.status, answer.text).toBe(200);
    if (agent === 'a') conversation = answer.json.conversation_id;
    return answer.json.message;
  }

  const use = (tool: string, args: object, agent?: string) => say(`/tool ${tool} ${JSON.stringify(args)}`, agent);
  const put = async (name: string, bytes: Buffer, query = '') => {
    const url = `${app.url}/api/v1/skills/${name}/file${query}`;
    const answer = await fetch(url, { method: 'PUT', headers: { 'x-api-key': user.key }, body: new Uint8Array(bytes) });
    expect(answer.status, await answer.text()).toBeLessThan(300);
  };

  test('an uploaded skill is in the next turn of the same conversation, and the agent can follow it', async () => {
    expect(await say('/system')).not.toContain('double');
    await put('double', double());
    const system = await say('/system');
    expect(system).toContain('What double is for');
    expect(system).toContain('skills/double/SKILL.md');
    expect(await use('read_file', { path: 'skills/double/SKILL.md' })).toContain('Run `bash skills/double/scripts/double.sh N`.');
    expect(await use('shell', { command: 'skills/double/scripts/double.sh 21' })).toContain('answer: 42');
    await put('double', double('', 'Second version.'));
    expect(await use('read_file', { path: 'skills/double/SKILL.md' })).toContain('Second version.');
  });

  test('an agent that has it not does not see it, and one that lost it neither', async () => {
    expect(await say('/system', 'b')).toContain('double');
    await app.call('PUT', '/api/v1/agents/b/skills', { key: user.key, body: { disabled: ['double'] } });
    expect(await say('/system', 'b')).not.toContain('double');
    expect(await use('shell', { command: 'ls skills' }, 'b')).not.toContain('double');
    expect(await say('/system')).toContain('double');
  });

  test('what it requires decides whether it is shown: a program, a variable', async () => {
    const requires = (what: string) => double(`metadata: {openclaw: {requires: ${what}}}\n`);
    await put('double', requires('{bins: [no-such-program]}'));
    expect(await say('/system')).not.toContain('What double is for');
    await put('double', requires('{bins: [bash], env: [DOUBLE_KEY]}'));
    expect(await say('/system')).not.toContain('What double is for');
    await app.call('PUT', '/api/v1/users/me/secrets', { key: user.key, body: { DOUBLE_KEY: 'secret-value-1' } });
    expect(await say('/system')).toContain('What double is for');
    expect(await use('shell', { command: 'test -n "$DOUBLE_KEY" && skills/double/scripts/double.sh 4' })).toContain('answer: 8');
  });

  test('one of the registry lies in the workspace as the registry’s own client would have put it, and goes without a trace', async () => {
    const made = await app.call('POST', '/api/v1/skills/weather/registry-install', { key: user.key });
    expect(made.status, made.text).toBe(201);
    expect(await say('/system')).toContain('skills/weather/SKILL.md');
    expect(await use('shell', { command: 'bash skills/weather/look.sh' })).toContain('sunny');
    const lock = await use('shell', { command: 'cat .clawhub/lock.json' });
    expect(lock).toContain('"weather"');
    expect(lock).toContain(`"registry": "${registry.url}"`);
    const origin = await use('shell', { command: 'cat skills/weather/.clawhub/origin.json' });
    expect(origin).toContain(made.json.registry.fingerprint);
    await app.call('DELETE', '/api/v1/skills/weather/registry-install', { key: user.key });
    expect(await use('shell', { command: 'ls skills; cat .clawhub/lock.json' })).not.toContain('weather');
  });

  test('what the agent did to its copy is put right with the next version, and stays in its own workspace', async () => {
    await use('shell', {
      command: 'echo spoiled > skills/double/SKILL.md; rm -rf skills/double/scripts; ln -s /etc skills/double/scripts',
    });
    await put('double', double('', 'Whole again.'));
    expect(await use('shell', { command: 'cat skills/double/SKILL.md; skills/double/scripts/double.sh 5' })).toMatch(
      /Whole again[\s\S]*answer: 10/,
    );
  });
});
