import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { archiveKind, readArchive } from '../../src/domains/skills/archive.js';
import { readEvents } from '../../src/events/outbox.js';
import { type Answer, startApp, type TestApp } from '../support/app.js';
import { skillMd, tar, zip } from '../support/archives.js';
import { databaseKinds } from '../support/database.js';
import { until } from '../support/until.js';

let app: TestApp;

async function put(
  key: string,
  path: string,
  body: Buffer | string,
  type: string,
  more: Record<string, string> = {},
): Promise<Answer> {
  const response = await fetch(`${app.url}/api/v1/users/me/skills/${path}`, {
    method: 'PUT',
    headers: { 'x-api-key': key, 'content-type': type, ...more },
    body: typeof body === 'string' ? body : new Uint8Array(body),
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, text, json: JSON.parse(text) };
}

const upload = (key: string, name: string, body: Buffer | string = skillMd(name), type = 'text/markdown') =>
  put(key, `${name}/file`, body, type);

describe.each(databaseKinds)('skills on %s', (database) => {
  beforeAll(async () => {
    app = await startApp({ database });
  });
  afterAll(() => app.stop());

  test('one SKILL.md is a skill; the same files are no new version, others are', async () => {
    const { key } = await app.user();
    const text = skillMd(
      'weather',
      'license: MIT\nallowed-tools: Bash(curl:*) Read\nmetadata: {openclaw: {requires: {bins: [curl]}, os: [linux]}}\n',
    );
    const made = await upload(key, 'weather', text);
    expect(made.status).toBe(201);
    expect(made.json).toMatchObject({
      name: 'weather',
      description: 'What weather is for',
      origin: 'upload',
      enabled_for: 'all',
      current_version: 1,
      license: 'MIT',
      allowed_tools: ['Bash(curl:*)', 'Read'],
      requires: { bins: ['curl'] },
      os: ['linux'],
      warnings: [],
    });
    const again = await upload(key, 'weather', zip([{ name: 'weather/SKILL.md', bytes: text }]), 'application/zip');
    expect(again.status).toBe(200);
    expect(again.json).toEqual(made.json);
    const run = { name: 'scripts/run.sh', bytes: '#!/bin/sh\necho 21\n' };
    const next = await upload(key, 'weather', gzipSync(tar([{ name: 'SKILL.md', bytes: text }, run])), 'application/gzip');
    expect(next.json).toMatchObject({ current_version: 2, version: 2 });
    expect(next.json.digest).not.toBe(made.json.digest);
    const shown = await app.get('/api/v1/skills/weather', key);
    expect(shown.headers.get('etag')).toBe('"2"');
    expect(shown.json.files.map(({ path, executable }: { path: string; executable: boolean }) => [path, executable])).toEqual([
      ['SKILL.md', false],
      ['scripts/run.sh', true],
    ]);
    expect((await app.get(`/api/v1/skills/${made.json.id}/versions`, key)).json.data).toMatchObject([
      { number: 2, current: true },
      { number: 1, current: false, digest: made.json.digest },
    ]);
    expect((await app.get('/api/v1/skills', key)).json.data).toHaveLength(1);
  });

  test('a form with one file is taken as that file; content decides over its type', async () => {
    const { key } = await app.user();
    const form = new FormData();
    form.append('file', new Blob([skillMd('formed')]), 'SKILL.md');
    const response = await fetch(`${app.url}/api/v1/skills/formed/file`, {
      method: 'PUT',
      headers: { 'x-api-key': key },
      body: form,
    });
    expect(response.status).toBe(201);
    expect(
      (await upload(key, 'sniffed', zip([{ name: 'SKILL.md', bytes: skillMd('sniffed') }]), 'application/octet-stream')).status,
    ).toBe(201);
    const wrong = await upload(key, 'wrong', 'not a zip', 'application/zip');
    expect([wrong.status, wrong.json.fields]).toEqual([
      400,
      [{ path: 'body', message: 'is no application/zip, nor any other archive known here' }],
    ]);
  });

  test('what was uploaded comes back as zip and as tar, of any version', async () => {
    const { key } = await app.user();
    await upload(key, 'back');
    await upload(key, 'back', skillMd('back', '', 'Second.'));
    for (const [query, second] of [
      ['', true],
      ['?format=tar', true],
      ['?version=1', false],
      ['?format=tar&version=1', false],
    ] as const) {
      const response = await fetch(`${app.url}/api/v1/skills/back/file${query}`, { headers: { 'x-api-key': key } });
      const bytes = Buffer.from(await response.arrayBuffer());
      expect(response.headers.get('content-disposition')).toContain('back.');
      const [file] = await readArchive(bytes, archiveKind(bytes)!);
      expect(file!.bytes.toString().includes('Second.')).toBe(second);
    }
    expect((await app.get('/api/v1/skills/back/file?version=9', key)).status).toBe(404);
  });

  test('every fault of a frontmatter is told, at once and by field', async () => {
    const { key } = await app.user();
    const faults = async (text: string | Buffer, name = 'x') => {
      const answer = await upload(key, name, text);
      expect(answer.status, answer.text).toBe(400);
      return Object.fromEntries(
        answer.json.fields.map(({ path, message }: { path: string; message: string }) => [path, message]),
      );
    };
    const yaml = (lines: string) => `---\n${lines}\n---\nBody`;
    expect(
      await faults(
        yaml(
          `name: Not_Good\ndescription: ""\ncompatibility: ${'c'.repeat(501)}\nlicense: [MIT]\nallowed-tools: 5\nuser-invocable: "yes"\nmetadata:\n  openclaw:\n    requires: {bins: curl, env: [1]}\n    os: [beos]\n    always: maybe`,
        ),
      ),
    ).toEqual({
      'frontmatter.name': 'must be a-z, 0-9 and single hyphens, none at the ends',
      'frontmatter.description': 'must not be empty',
      'frontmatter.compatibility': 'must have at most 500 characters',
      'frontmatter.license': expect.stringContaining('string'),
      'frontmatter.allowed-tools': 'must be words separated by spaces, or a list of words',
      'frontmatter.user-invocable': expect.stringContaining('boolean'),
      'frontmatter.metadata.openclaw.requires.bins': expect.stringContaining('array'),
      'frontmatter.metadata.openclaw.requires.env.0': expect.stringContaining('string'),
      'frontmatter.metadata.openclaw.os.0': 'must be darwin, linux or win32',
      'frontmatter.metadata.openclaw.always': expect.stringContaining('boolean'),
    });
    expect(await faults(skillMd('other'))).toEqual({ 'frontmatter.name': "must be x, as the skill's folder" });
    expect(await faults(yaml('name: x'))).toEqual({ 'frontmatter.description': 'is required' });
    expect(await faults(yaml(`name: x\ndescription: ${'d'.repeat(1025)}`))).toEqual({
      'frontmatter.description': 'must have at most 1024 characters',
    });
    expect(await faults('# no frontmatter')).toEqual({ 'SKILL.md': expect.stringContaining('must begin with frontmatter') });
    expect(await faults(yaml('name: x\nname: y'))).toEqual({ frontmatter: expect.stringContaining('is not valid YAML (line') });
    expect(await faults(yaml('- a\n- b'))).toEqual({ frontmatter: 'must be a map of fields' });
    expect(await faults(Buffer.from([0x2d, 0xff]))).toEqual({ 'SKILL.md': 'is not valid UTF-8' });
    expect(await faults('x'.repeat(300_000))).toEqual({ 'SKILL.md': 'must have at most 262144 bytes' });
    expect(await faults(yaml('name: x\ndescription: "a\\0b"'))).toEqual({
      frontmatter: 'must not contain NUL or lone surrogates',
    });
    expect((await app.get('/api/v1/skills', key)).json.data).toEqual([]);
  });

  test('YAML that is made to explode, to nest or to run something is refused, where to take it would take for ever', async () => {
    const { key } = await app.user();
    const laughs = [
      'a: &a [x,x,x,x,x,x,x,x,x]',
      ...'bcdefghi'.split('').map((c, i) => `${c}: &${c} [${Array(9).fill(`*${'abcdefgh'[i]}`).join(',')}]`),
    ];
    for (const yaml of [laughs.join('\n'), `a: ${'['.repeat(15_000)}`, `a: ${'{a: '.repeat(4_000)}`, 'a: '.repeat(5_000)]) {
      const answer = await upload(key, 'x', `---\nname: x\ndescription: d\n${yaml}\n---\n`);
      expect([answer.status, answer.json.fields[0].path]).toEqual([400, 'frontmatter']);
    }
    const tagged = await upload(key, 'x', '---\nname: x\ndescription: !!js/function "() => 1"\n__proto__: {polluted: 1}\n---\n');
    expect(tagged.status).toBeLessThan(500);
    expect(({} as { polluted?: number }).polluted).toBeUndefined();
  });

  test('a field that nobody knows is let pass and said', async () => {
    const { key } = await app.user();
    const answer = await upload(
      key,
      'odd',
      skillMd('odd', 'colour: blue\nmetadata: {clawdbot: {os: [darwin], requires: {config: [a.b]}}}\n'),
    );
    expect(answer.json.warnings).toEqual([
      'colour: is no field of AgentSkills or OpenClaw',
      'metadata.openclaw.os: has no linux, so agents here never see the skill',
      'metadata.openclaw.requires.config: cannot be met here',
    ]);
  });

  test('a name that cannot be a folder is refused, wherever it stands', async () => {
    const { key } = await app.user();
    for (const name of ['Upper', '-a', 'a-', 'a--b', 'a_b', 'a.b', 'x'.repeat(65)]) {
      const answer = await upload(key, name, skillMd(name));
      expect([answer.status, answer.json.fields?.[0]?.path], name).toEqual([400, 'path.id']);
    }
  });

  test('agents have what all have, but for what they say themselves', async () => {
    const user = await app.user();
    const { key } = user;
    const [a, b] = [await app.agent(user, 'a'), await app.agent(user, 'b')];
    await Promise.all(['one', 'two'].map((name) => upload(key, name)));
    await put(key, 'three/file?enabled_for=none', skillMd('three'), 'text/markdown');
    const of = async (agent: string) => {
      const { json } = await app.get(`/api/v1/agents/${agent}/skills`, key);
      return json.skills.filter(({ enabled }: { enabled: boolean }) => enabled).map(({ name }: { name: string }) => name);
    };
    expect(await of('a')).toEqual(['one', 'two']);
    const assigned = await app.call('PUT', '/api/v1/agents/a/skills', { key, body: { enabled: ['three'], disabled: ['one'] } });
    expect(assigned.json).toMatchObject({ agent: 'a', enabled: ['three'], disabled: ['one'] });
    expect([await of('a'), await of('b')]).toEqual([
      ['three', 'two'],
      ['one', 'two'],
    ]);
    expect((await app.get('/api/v1/skills/three', key)).json.enabled_on).toEqual(['a']);
    await app.call('PUT', '/api/v1/skills/two', { key, body: { enabled_for: 'none' } });
    expect([await of('a'), await of('b')]).toEqual([['three'], ['one']]);
    const bad = await app.call('PUT', '/api/v1/agents/a/skills', { key, body: { enabled: ['one', 'nope'], disabled: ['one'] } });
    expect(bad.json.fields).toEqual([
      { path: 'enabled.1', message: 'is no skill of the user' },
      { path: 'disabled.0', message: 'is in both lists' },
    ]);
    expect((await app.get('/api/v1/users/me/agents/a/skills', a.key)).status).toBe(200);
    expect((await app.get('/api/v1/users/me/agents/a/skills', b.key)).status).toBe(404);
    expect((await app.call('PUT', '/api/v1/users/me/agents/a/skills', { key: a.key, body: {} })).status).toBe(403);
    expect((await app.call('DELETE', '/api/v1/agents/a', { key })).status).toBe(202);
    expect((await app.get('/api/v1/skills/three', key)).json.enabled_on).toEqual([]);
  });

  test('a change reaches the gateway before the next turn, without another container', async () => {
    const user = await app.user();
    const { key } = user;
    await app.agent(user, 'a');
    await app.ready(user);
    const said = () => [...app.gateways.configs.values()].at(-1);
    const skillsTold = () => (said()?.agents.find(({ id }) => id === 'a') as { skills?: object[] } | undefined)?.skills ?? [];
    const containers = app.gateways.configs.size;
    const made = await upload(key, 'told', skillMd('told', 'metadata: {openclaw: {requires: {bins: [bash]}, always: true}}\n'));
    await until(() => skillsTold().length === 1, 'the gateway to be told');
    expect(skillsTold()).toEqual([
      { name: 'told', digest: made.json.digest, description: 'What told is for', requires: { bins: ['bash'] }, always: true },
    ]);
    await app.call('DELETE', '/api/v1/skills/told/file', { key });
    await until(() => skillsTold().length === 0, 'the gateway to be told again');
    expect(app.gateways.configs.size).toBe(containers);
  });

  test('an earlier version can be brought back, and a guard holds', async () => {
    const { key } = await app.user();
    const first = await upload(key, 'v');
    await upload(key, 'v', skillMd('v', '', 'Second.'));
    const stale = await app.call('PUT', '/api/v1/skills/v', {
      key,
      body: { current_version: 1 },
      headers: { 'if-match': '"1"' },
    });
    expect(stale.status).toBe(412);
    expect((await put(key, 'v/file', skillMd('v', '', 'Third.'), 'text/markdown', { 'if-match': '"1"' })).status).toBe(412);
    const back = await app.call('PUT', '/api/v1/skills/v', { key, body: { current_version: 1 }, headers: { 'if-match': '"2"' } });
    expect(back.json).toMatchObject({ current_version: 1, digest: first.json.digest, version: 3 });
    const nope = await app.call('PUT', '/api/v1/skills/v', { key, body: { current_version: 7 } });
    expect([nope.status, nope.json.fields]).toEqual([400, [{ path: 'current_version', message: 'is no version of the skill' }]]);
    expect((await upload(key, 'v', skillMd('v', '', 'Third.'))).json.current_version).toBe(3);
  });

  test('two uploads of one skill at once both stand, as versions one after the other', async () => {
    const { key } = await app.user();
    const answers = await Promise.all([1, 2, 3].map((n) => upload(key, 'race', skillMd('race', '', `Number ${n}.`))));
    expect(answers.map(({ status }) => status).toSorted()).toEqual([200, 200, 201]);
    expect(answers.map(({ json }) => json.current_version).toSorted()).toEqual([1, 2, 3]);
  });

  test('more uploads at once than memory is for wait, and then are told to come back; none fails', async () => {
    const user = await app.user(undefined, 'business');
    const answers = await Promise.all(
      Array.from({ length: 16 }, (_, i) =>
        upload(
          user.key,
          `many-${i}`,
          zip([
            { name: 'SKILL.md', bytes: skillMd(`many-${i}`) },
            { name: 'x', bytes: Buffer.alloc(4_000_000, i) },
          ]),
        ),
      ),
    );
    const statuses = new Set(answers.map(({ status }) => status));
    expect(statuses.has(201)).toBe(true);
    expect([...statuses].filter((status) => status !== 201 && status !== 503)).toEqual([]);
    const { total } = (await app.get('/api/v1/skills', user.key)).json.pagination;
    expect(total).toBe(answers.filter(({ status }) => status === 201).length);
  });

  test('a stranger sees nothing of it, and of two users with the same files each keeps their own', async () => {
    const [ada, bob] = [await app.user(), await app.user()];
    const { id } = (await upload(ada.key, 'mine')).json;
    for (const path of [`skills/${id}`, 'skills/mine', 'skills/mine/file', 'skills/mine/versions']) {
      expect((await app.get(`/api/v1/${path}`, bob.key)).status).toBe(404);
      expect((await app.get(`/api/v1/users/${ada.id}/${path}`, bob.key)).status).toBe(404);
    }
    const twin = await upload(bob.key, 'mine');
    expect(twin.status).toBe(201);
    expect((await app.call('DELETE', '/api/v1/skills/mine', { key: bob.key })).status).toBe(204);
    expect((await app.get('/api/v1/skills/mine/file', ada.key)).status).toBe(200);
  });

  test('deleting drops the bytes, and the deletion of a user drops everything', async () => {
    const user = await app.user();
    const count = async (table: 'skills' | 'skill_packages' | 'skill_versions') =>
      (await app.database.db.selectFrom(table).select('user_id').where('user_id', '=', user.id).execute()).length;
    await upload(user.key, 'one');
    await upload(user.key, 'one', skillMd('one', '', 'Second.'));
    await upload(user.key, 'two');
    expect([await count('skills'), await count('skill_versions'), await count('skill_packages')]).toEqual([2, 3, 3]);
    expect((await app.call('DELETE', '/api/v1/skills/one', { key: user.key })).status).toBe(204);
    expect((await app.call('DELETE', '/api/v1/skills/one', { key: user.key })).status).toBe(404);
    expect([await count('skills'), await count('skill_versions'), await count('skill_packages')]).toEqual([1, 1, 1]);
    const events = (await readEvents(app.database.db, user.id, 0, 50)).map(({ type }) => type);
    expect(events.filter((type) => type.startsWith('skill.'))).toEqual([
      'skill.created',
      'skill.updated',
      'skill.created',
      'skill.deleted',
    ]);
    expect((await app.call('DELETE', `/api/v1/users/${user.id}`, { key: app.adminKey })).status).toBe(202);
    await until(async () => (await count('skills')) === 0 && (await count('skill_packages')) === 0, 'the skills to go');
  });

  test('a user may have 200 skills and 200 MB of versions, old ones of which are dropped', async () => {
    const user = await app.user();
    const { db } = app.database;
    await upload(user.key, 'first');
    const { id, digest } = (await app.get('/api/v1/skills/first', user.key)).json;
    // As many as it takes, without their 200 uploads.
    const rows = Array.from({ length: 199 }, (_, i) => ({
      id: `${id.slice(0, -3)}${String(i).padStart(3, '0')}`,
      name: `n${i}`,
    }));
    const skill = { user_id: user.id, origin: 'upload', enabled_for: 'none', current: 1, last_number: 1 } as const;
    await db
      .insertInto('skills')
      .values(rows.map((row) => ({ ...skill, ...row })))
      .execute();
    const full = await upload(user.key, 'one-more');
    expect([full.status, full.json.error]).toEqual([403, 'a user may have 200 skills; 200 exist']);
    await db.deleteFrom('skills').where('user_id', '=', user.id).where('name', '<>', 'first').execute();
    await db.updateTable('skill_packages').set({ bytes: 199_999_000 }).where('digest', '=', digest).execute();
    const large = await upload(user.key, 'one-more');
    expect([large.status, large.json.error]).toEqual([
      403,
      expect.stringContaining('may have 200000000 bytes; with this one they would have'),
    ]);
    expect((await app.get('/api/v1/skills', user.key)).json.data).toHaveLength(1);
    await db.updateTable('skill_packages').set({ bytes: 2_048 }).where('digest', '=', digest).execute();
    const versions = Array.from({ length: 50 }, (_, i) => ({
      skill_id: id,
      user_id: user.id,
      number: i + 2,
      digest,
      head: '{}',
      warnings: '[]',
    }));
    await db
      .insertInto('skill_versions')
      .values(versions as never)
      .execute();
    await db.updateTable('skills').set({ current: 51, last_number: 51 }).where('id', '=', id).execute();
    expect((await upload(user.key, 'first', skillMd('first', '', 'Newest.'))).json.current_version).toBe(52);
    const kept = (await app.get('/api/v1/skills/first/versions', user.key)).json.data.map(
      ({ number }: { number: number }) => number,
    );
    expect([kept.length, kept[0], kept.at(-1)]).toEqual([50, 52, 3]);
  });

  test('the digest is that of the tar a gateway gets', async () => {
    const { key } = await app.user();
    const { digest } = (await upload(key, 'digest')).json;
    const response = await fetch(`${app.url}/api/v1/skills/digest/file?format=tar`, { headers: { 'x-api-key': key } });
    expect(
      createHash('sha256')
        .update(Buffer.from(await response.arrayBuffer()))
        .digest('hex'),
    ).toBe(digest);
  });
});
