import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { BUILT_IN, TEMPLATE_FILES } from '../../src/domains/templates/files.js';
import { Templates } from '../../src/domains/templates/templates.js';
import { type Answer, startApp, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';
import { until } from '../support/until.js';

type User = Awaited<ReturnType<TestApp['user']>>;

describe.each(databaseKinds)('templates on %s', (database) => {
  let app: TestApp;
  let user: User;
  beforeAll(async () => {
    app = await startApp({ database, app: { rates: { perAddress: 100_000, failuresPerAddress: 100_000 } } });
  });
  afterAll(() => app.stop());

  /** A user of its own for a test, with agents of those names. */
  async function owner(names: string[], tier = 'pro'): Promise<User> {
    const made = await app.user(undefined, tier);
    if (names.length > 0)
      await app.post(
        '/api/v1/users/me/agents',
        made.key,
        names.map((name) => ({ name })),
      );
    return made;
  }
  const DEFAULTS = '/api/v1/users/me/agent-templates';
  const VARIABLES = '/api/v1/users/me/template-variables';
  const of = (agent: string) => `/api/v1/users/me/agents/${agent}/templates`;
  const put = (path: string, body: unknown, headers: Record<string, string> = {}) =>
    app.call('PUT', path, { key: user.key, body, headers });
  const get = (path: string) => app.get(path, user.key);
  const restore = (path: string, version: number) => app.post(`${path}/versions/${version}/restore`, user.key, {});
  const soul = (answer: Answer) => answer.json.templates['SOUL.md'];
  const refusal = (answer: Answer) => [answer.status, answer.json.code, answer.json.fields?.[0]?.path];

  describe('layers', () => {
    test('without a word of anybody every file is the built-in one, filled in for the agent', async () => {
      user = await owner(['manager']);
      const defaults = await get(DEFAULTS);
      expect(defaults.status).toBe(200);
      expect(defaults.headers.get('etag')).toBe('"0"');
      expect(Object.keys(defaults.json.templates)).toEqual([...TEMPLATE_FILES]);
      expect(soul(defaults)).toEqual({
        source: 'built_in',
        version: 0,
        text: BUILT_IN['SOUL.md'],
        size: BUILT_IN['SOUL.md'].length,
        cap: 20_000,
        delivered_as: 'the workspace file SOUL.md, in every prompt',
        unknown_variables: [],
        updated_at: null,
      });
      const { json } = await get(of('manager'));
      expect(json).toMatchObject({ agent: 'manager', version: 0, total_cap: 60_000 });
      expect(json.templates['IDENTITY.md'].rendered).toContain('- **Name:** manager');
      expect(json.templates['USER.md']).toMatchObject({ cap: 4_000, rendered: expect.stringContaining(user.name) });
    });

    test('an agent’s text hides the user’s, which hides the built-in one; null brings the one below back', async () => {
      user = await owner(['one', 'two']);
      expect(soul(await put(DEFAULTS, { 'SOUL.md': 'of the user' }))).toMatchObject({
        source: 'user',
        version: 1,
        text: 'of the user',
      });
      const written = await put(of('one'), { 'SOUL.md': 'of {{agent.name}}', 'USER.md': 'x' });
      expect(written.headers.get('etag')).toBe('"2"');
      expect(soul(written)).toMatchObject({
        source: 'agent',
        version: 1,
        text: 'of {{agent.name}}',
        rendered: 'of one',
        rendered_size: 6,
      });
      expect(soul(await get(of('two')))).toMatchObject({ source: 'user', version: 1, rendered: 'of the user' });
      const removed = await put(of('one'), { 'SOUL.md': null });
      expect(soul(removed)).toMatchObject({ source: 'user', text: 'of the user' });
      expect(removed.json.templates['USER.md']).toMatchObject({ source: 'agent', text: 'x' });
      expect(soul(await put(DEFAULTS, { 'SOUL.md': null }))).toMatchObject({ source: 'built_in', version: 0 });
    });

    test('an empty text is a text', async () => {
      user = await owner(['manager']);
      expect(soul(await put(of('manager'), { 'SOUL.md': '' }))).toMatchObject({ source: 'agent', text: '', rendered: '' });
    });

    test('what stands already makes no version and no work', async () => {
      user = await owner(['manager']);
      await put(of('manager'), { 'SOUL.md': 'a' });
      const [before] = (await app.get('/api/v1/users/me/agents', user.key)).json.data;
      await app.ready(user);
      expect((await put(of('manager'), { 'SOUL.md': 'a', 'USER.md': null })).json).toMatchObject({ version: 1 });
      expect((await put(of('manager'), {})).status).toBe(200);
      expect((await get(`${of('manager')}/SOUL.md/versions`)).json.pagination.total).toBe(1);
      expect((await app.get('/api/v1/users/me/agents', user.key)).json.data[0]).toMatchObject({ id: before.id, status: 'ready' });
    });

    test('the files are in what the gateway is told: tools within AGENTS.md, no heartbeat, memory as a seed', async () => {
      user = await owner(['manager']);
      const templates = {
        'TOOLS.md': 'Use git.',
        'HEARTBEAT.md': 'Beat.',
        'MEMORY.md': 'I am {{agent.name}}.',
        'SOUL.md': 'It is {{date}}.',
      };
      await put(of('manager'), templates);
      await app.ready(user);
      const id = (await get('/api/v1/users/me/deploy/status')).json.deployments[0].instance.id;
      const [told] = app.gateways.configs.get(id)!.agents as unknown as { files: Record<string, string>; seeds: object }[];
      expect(Object.keys(told!.files).toSorted()).toEqual(['AGENTS.md', 'IDENTITY.md', 'SOUL.md', 'USER.md']);
      expect(told!.files['AGENTS.md']).toMatch(/\n## Tools\n\nUse git\.\n$/);
      expect(told!.files['SOUL.md']).toBe('It is {{date}}.');
      expect(told!.seeds).toEqual({ 'MEMORY.md': 'I am manager.' });
      const { json } = await get(of('manager'));
      expect(json.templates['SOUL.md'].rendered).toBe(`It is ${new Date().toISOString().slice(0, 10)}.`);
    });

    test('a heartbeat is read when it is due: filled in, without comments, empty where it says nothing', async () => {
      user = await owner(['manager']);
      const { id } = (await app.get('/api/v1/users/me/agents/manager', user.key)).json;
      const templates = new Templates({ db: app.database.db, agents: undefined as never });
      const beat = () => templates.heartbeatOf(app.database.db, user.id, id);
      expect(await beat()).toBe('');
      await put(DEFAULTS, { 'HEARTBEAT.md': '<!-- c -->Look after {{user.name}}.' });
      expect(await beat()).toBe(`Look after ${user.name}.`);
      await put(of('manager'), { 'HEARTBEAT.md': '' });
      expect(await beat()).toBe('');
    });
  });

  describe('writes', () => {
    test.each<[what: string, body: unknown, path: string]>([
      ['an unknown file', { 'README.md': 'x' }, 'README.md'],
      ['a file in other letters', { 'soul.md': 'x' }, 'soul.md'],
      ['a number', { 'SOUL.md': 7 }, 'SOUL.md'],
      ['NUL', { 'SOUL.md': 'a\0' }, 'SOUL.md'],
      ['half of a surrogate pair', '{"SOUL.md":"\\ud800"}', 'SOUL.md'],
      ['a list', [], 'body'],
      ['a text above the cap', { 'SOUL.md': 'x'.repeat(20_001) }, 'SOUL.md'],
      ['a USER.md above its own', { 'USER.md': 'x'.repeat(4_001) }, 'USER.md'],
    ])('%s is refused by field, and nothing of the rest is written', async (_, body, path) => {
      user = await owner(['manager']);
      const mixed = typeof body === 'object' && !Array.isArray(body) ? { 'IDENTITY.md': 'kept out', ...body } : body;
      for (const where of [DEFAULTS, of('manager')]) {
        expect(refusal(await put(where, mixed))).toEqual([400, 'invalid_request', path]);
        expect((await get(where)).json.version).toBe(0);
      }
    });

    test('a variable that makes a text longer than its cap is refused with file, size and cap, whoever brings it', async () => {
      user = await owner(['manager']);
      await put(VARIABLES, { long: 'x'.repeat(1_500), short: 's' });
      const text = '{{long}}'.repeat(14);
      const answer = await put(of('manager'), { 'SOUL.md': text });
      expect(refusal(answer)).toEqual([400, 'invalid_request', 'SOUL.md']);
      expect(answer.json.error).toBe(
        'SOUL.md would have 21000 characters for agent manager, the cap is 20000, variables filled in',
      );
      expect((await put(of('manager'), { 'SOUL.md': '{{short}}'.repeat(14) })).status).toBe(200);
      const grown = await put(VARIABLES, { short: 'x'.repeat(2_000) });
      expect(refusal(grown)).toEqual([400, 'invalid_request', 'SOUL.md']);
      expect((await get(VARIABLES)).json).toMatchObject({ version: 1, variables: { short: 's' } });
    });

    test('AGENTS.md counts with its tools, and the whole has a cap', async () => {
      user = await owner(['manager']);
      const tools = await put(of('manager'), { 'AGENTS.md': 'x'.repeat(15_000), 'TOOLS.md': 'y'.repeat(5_000) });
      expect(refusal(tools)).toEqual([400, 'invalid_request', 'AGENTS.md']);
      expect(tools.json.error).toContain('AGENTS.md, with TOOLS.md as its section, would have 20013 characters');
      const full = 'x'.repeat(20_000);
      const whole = await put(DEFAULTS, { 'AGENTS.md': full, 'SOUL.md': full, 'IDENTITY.md': full });
      expect(refusal(whole)).toEqual([400, 'invalid_request', 'total']);
      expect(whole.json.error).toMatch(/^all files together would have 600\d\d characters .* the cap is 60000/);
    });

    test('a default must fit the agents that are there, and those with the longest name that may come', async () => {
      user = await owner(['manager']);
      await put(of('manager'), { 'AGENTS.md': 'x'.repeat(19_000), 'TOOLS.md': '' });
      expect((await put(of('manager'), { 'TOOLS.md': null })).status).toBe(200);
      const notes = await put(DEFAULTS, { 'TOOLS.md': 'y'.repeat(2_000) });
      expect([notes.status, notes.json.error]).toEqual([400, expect.stringContaining('for agent manager')]);
      const named = await put(DEFAULTS, { 'USER.md': '{{agent.name}}'.repeat(100) });
      expect([named.status, named.json.error]).toEqual([
        400,
        expect.stringContaining('6400 characters for an agent with the longest name'),
      ]);
    });

    test('what would be more than one container takes is refused with the figure, and less of it is taken', async () => {
      user = await owner(
        Array.from({ length: 60 }, (_, i) => `a${i}`),
        'business',
      );
      const wide = '😀'.repeat(9_999);
      expect((await put(DEFAULTS, { 'SOUL.md': wide, 'AGENTS.md': wide })).status).toBe(200);
      const answer = await put(DEFAULTS, { 'IDENTITY.md': '\u0001'.repeat(19_000) });
      expect([answer.status, answer.json.code]).toEqual([413, 'payload_too_large']);
      expect(answer.json.error).toMatch(/60 agents of one container would take 11\d{6} bytes; it takes 7000000/);
      expect((await put(DEFAULTS, { 'IDENTITY.md': 'short' })).status).toBe(200);
    });

    test('agents that no longer fit beside the others are refused, one that has a container of its own is not', async () => {
      user = await owner(
        Array.from({ length: 20 }, (_, i) => `a${i}`),
        'business',
      );
      const wide = '\u0001'.repeat(19_900);
      expect((await put(DEFAULTS, { 'SOUL.md': wide, 'IDENTITY.md': wide })).status).toBe(200);
      const wish = (more: object) => app.post('/api/v1/users/me/agents', user.key, more);
      expect((await wish(Array.from({ length: 15 }, (_, i) => ({ name: `b${i}` })))).status).toBe(413);
      expect((await get('/api/v1/users/me/agents')).json.pagination.total).toBe(20);
      expect((await wish(Array.from({ length: 9 }, (_, i) => ({ name: `b${i}` })))).status).toBe(202);
      const told = '\u0002'.repeat(19_900);
      expect((await app.call('PUT', '/api/v1/users/me/agents/a1', { key: user.key, body: { instructions: told } })).status).toBe(
        413,
      );
      expect((await wish({ name: 'apart', isolation: 'dedicated', instructions: told })).status).toBe(202);
    });

    test('a version that was seen is a guard, and of two writers one is told', async () => {
      user = await owner(['manager']);
      for (const [path, body] of [
        [DEFAULTS, { 'SOUL.md': 'a' }],
        [of('manager'), { 'SOUL.md': 'b' }],
        [VARIABLES, { a: 'b' }],
      ] as const) {
        expect((await put(path, body, { 'if-match': '"1"' })).status).toBe(412);
        const both = await Promise.all([
          put(path, body, { 'if-match': '"0"' }),
          put(path, { ...body, ...(path === VARIABLES ? { c: 'd' } : { 'USER.md': 'c' }) }, { 'if-match': '"0"' }),
        ]);
        expect(both.map(({ status }) => status).toSorted()).toEqual([200, 412]);
        const now = (await get(path)).headers.get('etag')!;
        expect((await put(path, path === VARIABLES ? { e: 'f' } : { 'TOOLS.md': 'e' }, { 'if-match': now })).status).toBe(200);
      }
    });

    test('ten writers at once make ten versions of one file, numbered without a gap', async () => {
      user = await owner(['manager']);
      const answers = await Promise.all(Array.from({ length: 10 }, (_, i) => put(of('manager'), { 'SOUL.md': `text ${i}` })));
      expect(answers.map((answer) => soul(answer).version).toSorted((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    });

    test('an agent’s key may read its own and change nothing; strangers find nothing', async () => {
      user = await owner([]);
      const agent = await app.agent(user, 'manager');
      expect((await app.get(of('manager'), agent.key)).status).toBe(200);
      expect((await app.call('PUT', of('manager'), { key: agent.key, body: { 'SOUL.md': 'x' } })).status).toBe(403);
      expect((await app.get(DEFAULTS, agent.key)).status).toBe(403);
      const stranger = await app.user();
      expect((await app.get(`/api/v1/users/${user.id}/agents/manager/templates`, stranger.key)).status).toBe(404);
      expect((await app.get(`/api/v1/users/me/agents/${agent.id}/templates`, stranger.key)).status).toBe(404);
    });

    test('an event says who changed which files, and nothing of what they say', async () => {
      user = await owner(['manager']);
      await put(of('manager'), { 'SOUL.md': 'canary', 'USER.md': 'canary' });
      await put(VARIABLES, { team: 'canary' });
      const rows = await app.database.db
        .selectFrom('events')
        .select(['type', 'payload'])
        .where('user_id', '=', user.id)
        .where('type', 'like', 'template.%')
        .orderBy('seq')
        .execute();
      expect(rows).toEqual([
        { type: 'template.updated', payload: { agent_id: expect.stringMatching(/^agt_/), files: ['SOUL.md', 'USER.md'] } },
        { type: 'template.variables_updated', payload: { names: ['team'] } },
      ]);
    });
  });

  describe('variables', () => {
    test('are merged, filled in for every agent, and unknown ones are told where they stand', async () => {
      user = await owner(['manager']);
      const written = await put(DEFAULTS, { 'SOUL.md': 'Of {{team}}, {{ tone }}, {{user.nmae}}.' });
      expect(soul(written).unknown_variables).toEqual(['team', 'tone', 'user.nmae']);
      const first = await put(VARIABLES, { team: 'Research', constructor: '{{team}}' });
      expect(first.json).toEqual({
        variables: { team: 'Research', constructor: '{{team}}' },
        version: 1,
        updated_at: expect.any(String),
        unknown_variables: ['tone', 'user.nmae'],
      });
      expect(soul(await get(of('manager')))).toMatchObject({
        rendered: 'Of Research, {{ tone }}, {{user.nmae}}.',
        unknown_variables: ['tone', 'user.nmae'],
      });
      const second = await put(VARIABLES, { tone: 'calm', team: null });
      expect(second.json).toMatchObject({ variables: { tone: 'calm' }, version: 2, unknown_variables: ['team', 'user.nmae'] });
      expect((await get(VARIABLES)).json).toEqual(second.json);
      expect((await put(VARIABLES, { tone: 'calm', nobody: null })).json).toEqual(second.json);
      expect(soul(await get(of('manager'))).rendered).toBe('Of {{team}}, calm, {{user.nmae}}.');
    });

    test.each<[what: string, body: unknown, path: string]>([
      ['a dot', { 'agent.name': 'x' }, 'agent.name'],
      ['the date', { date: 'x' }, 'date'],
      ['a digit first', { '1a': 'x' }, '1a'],
      ['a space', { 'a b': 'x' }, 'a b'],
      ['a name too long', { [`a${'b'.repeat(64)}`]: 'x' }, 'a'.padEnd(64, 'b')],
      ['a line first', { _a: 'x' }, '_a'],
      ['a number as value', { a: 1 }, 'a'],
      ['a value too long', { a: 'x'.repeat(2_001) }, 'a'],
      ['a list', ['a'], 'body'],
    ])('%s is refused by field', async (_, body, path) => {
      user = await owner([]);
      expect(refusal(await put(VARIABLES, body))).toEqual([400, 'invalid_request', path]);
    });

    test('a hundred there may be', async () => {
      user = await owner([]);
      const many = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, i) => [`v${i}`, 'x']));
      expect((await put(VARIABLES, many(100))).status).toBe(200);
      const answer = await put(VARIABLES, { more: 'x' });
      expect([answer.status, answer.json.code]).toEqual([403, 'limit_exceeded']);
      expect((await put(VARIABLES, { more: 'x', v0: null })).status).toBe(200);
    });
  });

  describe('history', () => {
    test('every version is kept, in pages, with its text, its author and what changed', async () => {
      user = await owner(['manager']);
      for (const path of [DEFAULTS, of('manager')]) {
        for (const text of ['a\nb\n', 'a\nc\n', null]) await put(path, { 'SOUL.md': text });
        const first = await get(`${path}/SOUL.md/versions?limit=2`);
        expect(first.json.data).toEqual([
          {
            id: expect.stringMatching(/^tpl_/),
            file: 'SOUL.md',
            version: 3,
            current: true,
            removed: true,
            bytes: 0,
            by: expect.stringMatching(/^user:key_/),
            created_at: expect.any(String),
          },
          expect.objectContaining({ version: 2, current: false, removed: false, bytes: 4 }),
        ]);
        expect(first.json.pagination).toMatchObject({ has_more: true, total: 3 });
        const next = await get(`${path}/SOUL.md/versions?cursor=${first.json.pagination.next_cursor}`);
        expect(next.json.data.map((row: { version: number }) => row.version)).toEqual([1]);
        expect((await get(`${path}/SOUL.md/versions/2`)).json).toMatchObject({ version: 2, text: 'a\nc\n' });
        expect((await get(`${path}/SOUL.md/diff?from=1&to=2`)).json).toEqual({
          file: 'SOUL.md',
          from: 1,
          to: 2,
          diff: '--- SOUL.md (version 1)\n+++ SOUL.md (version 2)\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n',
        });
        expect((await get(`${path}/SOUL.md/diff`)).json).toMatchObject({
          from: 2,
          to: 3,
          diff: expect.stringContaining('-a\n-c\n'),
        });
        expect((await get(`${path}/SOUL.md/diff?from=0&to=1`)).json.diff).toContain('--- SOUL.md (built-in)\n');
        expect((await get(`${path}/USER.md/diff`)).json).toEqual({ file: 'USER.md', from: 0, to: 0, diff: '' });
      }
    });

    test('a restored version is a new one, and holds; a restored removal removes', async () => {
      user = await owner(['manager']);
      for (const path of [DEFAULTS, of('manager')]) {
        for (const text of ['first', null, 'third']) await put(path, { 'SOUL.md': text });
        expect(soul(await restore(`${path}/SOUL.md`, 1))).toMatchObject({ version: 4, text: 'first' });
        expect(soul(await restore(`${path}/SOUL.md`, 4))).toMatchObject({ version: 4 });
        const removed = await restore(`${path}/SOUL.md`, 2);
        expect(soul(removed).source).toBe('built_in');
        expect(removed.json.version).toBe(5);
        const guarded = await app.post(`${path}/SOUL.md/versions/1/restore`, user.key, {}, { 'if-match': '"4"' });
        expect(guarded.status).toBe(412);
      }
    });

    test('a version that would break a cap by now is not restored', async () => {
      user = await owner(['manager']);
      await put(of('manager'), { 'SOUL.md': '{{v}}'.repeat(20) });
      await put(of('manager'), { 'SOUL.md': 'x' });
      await put(VARIABLES, { v: 'x'.repeat(1_500) });
      expect(refusal(await restore(`${of('manager')}/SOUL.md`, 1))).toEqual([400, 'invalid_request', 'SOUL.md']);
    });

    test('what never was is not found, and what is no version is refused', async () => {
      user = await owner(['manager']);
      await put(of('manager'), { 'SOUL.md': 'x' });
      const base = `${of('manager')}/SOUL.md`;
      for (const path of ['versions/2', 'diff?from=1&to=9', 'diff?from=7'])
        expect((await get(`${base}/${path}`)).status, path).toBe(404);
      for (const path of ['versions/0', 'versions/x', 'versions/1.5', 'diff?to=-1', 'versions?cursor=x'])
        expect((await get(`${base}/${path}`)).status, path).toBe(400);
      expect((await restore(base, 2)).status).toBe(404);
      expect((await get(`${of('manager')}/NOPE.md/versions`)).status).toBe(400);
      expect((await get(`${of('nobody')}/SOUL.md/versions`)).status).toBe(404);
      expect((await put(of('nobody'), {})).status).toBe(404);
    });

    test('old versions can be removed for good, the newest cannot', async () => {
      user = await owner(['manager']);
      for (const text of ['secret', 'b', 'c']) await put(of('manager'), { 'SOUL.md': text });
      const base = `${of('manager')}/SOUL.md/versions`;
      expect((await app.call('DELETE', base, { key: user.key })).status).toBe(400);
      expect((await app.call('DELETE', `${base}?before=2`, { key: user.key })).json).toEqual({ removed: 1 });
      expect((await app.call('DELETE', `${base}?before=99`, { key: user.key })).json).toEqual({ removed: 1 });
      expect((await get(base)).json.data.map((row: { version: number }) => row.version)).toEqual([3]);
      expect((await put(of('manager'), { 'SOUL.md': 'd' })).json.templates['SOUL.md'].version).toBe(4);
    });

    test('more than may be kept is refused until old versions are removed', async () => {
      user = await owner(['manager']);
      for (const text of ['a', 'b']) await put(of('manager'), { 'SOUL.md': text });
      const { db } = app.database;
      await db
        .updateTable('templates')
        .set({ kept_bytes: 128 * 1024 * 1024 })
        .where('user_id', '=', user.id)
        .execute();
      const answer = await put(of('manager'), { 'SOUL.md': 'c' });
      expect([answer.status, answer.json.code, soul(await get(of('manager'))).text]).toEqual([403, 'limit_exceeded', 'b']);
      await app.call('DELETE', `${of('manager')}/SOUL.md/versions?before=2`, { key: user.key });
      expect((await put(of('manager'), { 'SOUL.md': 'c' })).status).toBe(200);
    });
  });

  describe('ends', () => {
    const rows = async (table: 'templates' | 'template_variables') =>
      (await app.database.db.selectFrom(table).select('user_id').where('user_id', '=', user.id).execute()).length;

    test('an agent’s templates go with it: one of the same name begins anew', async () => {
      user = await owner(['manager', 'other']);
      await put(of('manager'), { 'SOUL.md': 'old' });
      expect((await app.call('DELETE', '/api/v1/users/me/agents/manager', { key: user.key })).status).toBe(202);
      expect(await rows('templates')).toBe(0);
      await app.agent(user, 'manager');
      expect((await get(of('manager'))).json).toMatchObject({ version: 0 });
    });

    test('a deleted user leaves none', async () => {
      user = await owner(['manager']);
      await put(DEFAULTS, { 'SOUL.md': 'x' });
      await put(VARIABLES, { a: 'b' });
      await put(of('manager'), { 'SOUL.md': 'y' });
      expect((await app.call('DELETE', `/api/v1/users/${user.id}`, { key: app.adminKey })).status).toBe(202);
      await until(async () => (await rows('templates')) + (await rows('template_variables')) === 0, 'the templates to go');
    });
  });
});
