import { sql } from 'kysely';
import { describe, expect, test } from 'vitest';
import { startApp } from '../support/app.js';
import { FakeUpstream, openai } from '../support/fake-upstream.js';
import { until } from '../support/until.js';

describe('a heartbeat in its container', () => {
  test('does what HEARTBEAT.md asks with the tools of the agent, and costs no model call where the month is used up', async () => {
    const upstream = await FakeUpstream.start();
    const app = await startApp({
      runtime: 'process',
      env: { OPENAI_BASE_URL: `${upstream.url}/v1` },
      app: { secrets: { openaiApiKey: 'sk-provider-0123456789', anthropicApiKey: undefined }, heartbeats: { everyMs: 50 } },
    });
    try {
      const user = await app.user();
      const path = `/api/v1/users/${user.id}/agents/a`;
      await app.agent(user, 'a', { model: 'openai/gpt-fake' });
      await app.call('PUT', `${path}/templates`, {
        key: user.key,
        body: { 'HEARTBEAT.md': '- Note the time for {{user.name}} on {{date}}.' },
      });
      await app.ready(user);
      const next = async () => (await app.get(`${path}/heartbeats`, user.key)).json;
      const due = async () => {
        await until(async () => (await next()).schedule.next_at !== null, 'a plan');
        await sql`update heartbeats set next_at = now()`.execute(app.database.db);
      };
      const ended = async (count: number) => {
        await until(
          async () => (await next()).data.filter(({ status }: { status: string }) => status !== 'running').length === count,
          `${count} beats`,
        );
        return (await next()).data[0];
      };

      upstream.script(
        openai.toolCalls({ id: 'c1', name: 'shell', pieces: ['{"command":"echo noted > noted.txt; cat noted.txt"}'] }),
        openai.text('Noted the time.'),
      );
      await due();
      expect(await ended(1)).toMatchObject({ status: 'replied', reply: 'Noted the time.', usage: { total_tokens: 36 } });
      const [first, second] = upstream.requests.map(({ body }) => body);
      expect(first.messages.map(({ role }: { role: string }) => role)).toEqual(['system', 'user']);
      expect(first.messages[1].content).toContain(
        `- Note the time for ${user.name} on ${new Date().toISOString().slice(0, 10)}.`,
      );
      expect(second.messages.at(-1).content).toBe('noted');

      // The next one knows what was said, and nothing of how it was done.
      upstream.script(openai.text('NO_REPLY'));
      await due();
      expect(await ended(2)).toMatchObject({ status: 'quiet', reply: null });
      const third = upstream.requests[2]?.body.messages;
      expect(third).toHaveLength(2);
      expect(third[1].content).toContain('Noted the time.');

      await sql`update tiers set tokens_per_month = 1`.execute(app.database.db);
      await due();
      expect(await ended(3)).toMatchObject({ status: 'skipped', reason: expect.stringContaining('are used up') });
      expect(upstream.requests).toHaveLength(3);

      // A chat is another conversation, in which nothing of all this was said.
      await sql`update tiers set tokens_per_month = null`.execute(app.database.db);
      await app.post(`${path}/chat`, user.key, { messages: [{ role: 'user', content: 'hello' }] });
      expect(upstream.requests.at(-1)?.body.messages).toHaveLength(2);
    } finally {
      await app.stop();
      await upstream.close();
    }
  });
});
