import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';

/** A conversation with an agent that answers `/system` with the system prompt it was sent. */
class Conversation {
  readonly #app: TestApp;
  readonly #key: string;
  readonly #agent: string;
  #id: string | undefined;

  constructor(app: TestApp, key: string, agent: string) {
    this.#app = app;
    this.#key = key;
    this.#agent = agent;
  }

  async say(content: string): Promise<string> {
    const answer = await this.#app.post(`/api/v1/agents/${this.#agent}/chat`, this.#key, {
      messages: [{ role: 'user', content }],
      ...(this.#id === undefined ? {} : { conversation_id: this.#id }),
    });
    expect(answer.status, answer.text).toBe(200);
    this.#id = answer.json.conversation_id;
    return answer.json.message;
  }

  /** The system prompt of the next turn. */
  prompt(): Promise<string> {
    return this.say('/system');
  }
}

describe.each([
  ...databaseKinds.map((database) => ({ database, runtime: 'process' as const })),
  { database: 'postgres' as const, runtime: 'docker' as const },
])('templates in a $runtime on $database', ({ database, runtime }) => {
  let app: TestApp;
  let user: Awaited<ReturnType<TestApp['user']>>;
  let talk: Conversation;
  const put = async (path: string, body: object) => {
    const answer = await app.call('PUT', `/api/v1/users/me/${path}`, { key: user.key, body });
    expect(answer.status, answer.text).toBe(200);
    return answer.json;
  };
  const rendered = async (file: string): Promise<string> =>
    (await app.get('/api/v1/users/me/agents/manager/templates', user.key)).json.templates[file].rendered;
  const shell = (command: string) => talk.say(`/tool shell ${JSON.stringify({ command })}`);

  beforeAll(async () => {
    app = await startApp({ database, runtime });
    user = await app.user('ada');
    await app.agent(user, 'manager');
    await app.ready(user);
    talk = new Conversation(app, user.key, 'manager');
  });
  afterAll(() => app.stop());

  test('every change is in the next turn of the same conversation, from whichever layer it comes', async () => {
    expect(await talk.prompt()).toContain('- **Name:** manager');
    await put('agent-templates', { 'SOUL.md': 'Speak like {{hero}}.' });
    expect(await talk.prompt()).toContain('Speak like {{hero}}.');
    await put('template-variables', { hero: 'a pirate' });
    expect(await talk.prompt()).toContain('Speak like a pirate.');
    await put('agents/manager/templates', { 'SOUL.md': 'You serve {{user.name}}.', 'TOOLS.md': 'Use git.' });
    const own = await talk.prompt();
    expect(own).toContain('You serve ada.');
    expect(own).not.toContain('pirate');
    for (const file of ['AGENTS.md', 'SOUL.md', 'IDENTITY.md', 'USER.md']) expect(own).toContain(await rendered(file));
    expect(own).toMatch(/\n## Tools\n\nUse git\.\n/);
    await put('agents/manager/templates', { 'SOUL.md': null });
    expect(await talk.prompt()).toContain('Speak like a pirate.');
    expect(await talk.say('/history')).toBe(Array.from({ length: 5 }, () => '/system').join(' | '));
  });

  test('the date is that of the turn, and no placeholder is left', async () => {
    const [before, prompt, after] = [
      new Date(),
      await put('agents/manager/templates', { 'SOUL.md': 'On {{ date }}.' }).then(() => talk.prompt()),
      new Date(),
    ];
    expect([before, after].map((day) => `On ${day.toISOString().slice(0, 10)}.`)).toContain(/On [^.]+\./.exec(prompt)?.[0]);
  });

  test('a heartbeat and retired files are neither in the prompt nor in the workspace', async () => {
    await put('agents/manager/templates', { 'HEARTBEAT.md': 'Canary: look at the mail.', 'TOOLS.md': 'Use git.' });
    expect(await talk.prompt()).not.toContain('Canary');
    expect(await shell('ls')).not.toMatch(/TOOLS|HEARTBEAT/);
  });

  test('what the agent does to its templates is undone by the next turn; its memory stays its own', async () => {
    await put('agents/manager/templates', { 'SOUL.md': 'Kind.', 'MEMORY.md': 'Seeded for {{agent.name}}.' });
    expect(await shell('cat MEMORY.md; echo Evil. > SOUL.md; echo Mine. > MEMORY.md')).toContain('Seeded for manager.');
    const prompt = await talk.prompt();
    expect(prompt).toContain('Kind.');
    expect(prompt).not.toContain('Evil.');
    expect(prompt).toContain('Mine.');
    await put('agents/manager/templates', { 'MEMORY.md': 'Seeded again.' });
    expect(await talk.prompt()).toContain('Mine.');
  });
});
