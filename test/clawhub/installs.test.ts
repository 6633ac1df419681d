import type { ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:net';
import type { AddressInfo } from 'node:net';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { readArchive } from '../../src/domains/skills/archive.js';
import { type Answer, startApp, type TestApp } from '../support/app.js';
import { skillMd, zip } from '../support/archives.js';
import { FakeClawHub, json, text } from '../support/fake-clawhub.js';

let registry: FakeClawHub;
let app: TestApp;
let user: { id: string; key: string };

const files = (name: string, body = 'Look out of the window.') => ({
  'SKILL.md': skillMd(name, 'metadata: {openclaw: {requires: {bins: [bash]}}}\n', body),
  'scripts/look.sh': '#!/bin/bash\necho sunny\n',
  'notes/Zebra.md': 'z',
  'notes/apple.md': 'a',
});

beforeAll(async () => {
  registry = await FakeClawHub.start();
  app = await startApp({
    env: { CLAWHUB_URL: registry.url, CLAWHUB_ALLOW: 'pending' },
    app: { clawhub: { connectMs: 1_000, firstByteMs: 1_000, stallMs: 1_000, totalMs: 5_000 } },
  });
});
afterAll(async () => {
  await app.stop();
  await registry.stop();
});
beforeEach(async () => {
  registry.skills.splice(0, Infinity, {
    owner: 'ada',
    slug: 'weather',
    versions: [
      { version: '1.0.0', files: files('weather'), tags: ['stable'] },
      { version: '1.1.0', files: files('weather', 'Ask a frog.') },
    ],
  });
  user = await app.user();
});
afterEach(() => {
  registry.instead.clear();
  registry.asked.length = 0;
});

const install = (slug: string, body?: object): Promise<Answer> =>
  app.call('POST', `/api/v1/skills/${encodeURIComponent(slug)}/registry-install`, { key: user.key, ...(body ? { body } : {}) });
const kept = async () => (await app.get('/api/v1/skills', user.key)).json.data as { name: string }[];

/** The skill is refused with that status, in words that hold these, and nothing of it is kept. */
async function refused(slug: string, status: number, words: RegExp, body?: object): Promise<Answer> {
  const answer = await install(slug, body);
  expect(`${answer.status} ${answer.text}`).toMatch(new RegExp(`^${status} `));
  expect(answer.json.error).toMatch(words);
  expect(await kept()).toEqual([]);
  return answer;
}

async function fileOf(skill: string, path: string): Promise<string | undefined> {
  const response = await fetch(`${app.url}/api/v1/skills/${skill}/file?format=tar`, { headers: { 'x-api-key': user.key } });
  const bytes = Buffer.from(await response.arrayBuffer());
  const at = bytes.indexOf(`${path}\0`);
  if (at === -1) return undefined;
  const size = Number.parseInt(bytes.toString('latin1', at + 124, at + 135), 8);
  return bytes.toString('utf8', at + 512, at + 512 + size);
}

describe('a skill of the registry', () => {
  test('is resolved, judged, fetched, checked and kept, with its origin', async () => {
    const answer = await install('weather');
    expect(answer.status, answer.text).toBe(201);
    expect(answer.json).toMatchObject({
      outcome: 'created',
      name: 'weather',
      origin: 'registry',
      requires: { bins: ['bash'] },
      registry: {
        registry: registry.url,
        slug: 'weather',
        owner: 'ada',
        version: '1.1.0',
        verdict: { decision: 'pass', status: 'clean', reasons: [], overview: 'No risky behaviour was found.' },
      },
    });
    expect(registry.asked).toEqual([
      'GET /api/v1/skills/weather',
      'GET /api/v1/skills/weather/install?ownerHandle=ada',
      'GET /api/v1/skills/weather/versions/1.1.0?ownerHandle=ada',
      'POST /api/v1/skills/-/security-verdicts',
      'GET /api/v1/download?slug=weather&ownerHandle=ada&version=1.1.0',
    ]);
    const origin = JSON.parse((await fileOf('weather', '.clawhub/origin.json')) ?? '');
    expect(origin).toMatchObject({
      version: 1,
      registry: registry.url,
      slug: 'weather',
      ownerHandle: 'ada',
      installedVersion: '1.1.0',
    });
    expect(origin.fingerprint).toBe(answer.json.registry.fingerprint);
    expect(origin.artifact.sha256).toBe(answer.json.registry.archive_sha256);
    const detail = await app.get('/api/v1/skills/weather', user.key);
    expect(detail.json.files.map(({ path }: { path: string }) => path)).toEqual([
      '.clawhub/origin.json',
      'SKILL.md',
      '_meta.json',
      'notes/Zebra.md',
      'notes/apple.md',
      'scripts/look.sh',
    ]);
  });

  test('of a version, of a tag, and of one publisher of several', async () => {
    expect((await install('weather', { version: '1.0.0' })).json.registry.version).toBe('1.0.0');
    expect((await install('@ada/weather', { tag: 'stable' })).json).toMatchObject({ outcome: 'unchanged', current_version: 1 });
    registry.skills.push({ owner: 'bob', slug: 'weather', versions: [{ version: '9.0.0', files: files('weather', 'By Bob.') }] });
    const ambiguous = await install('weather');
    expect([ambiguous.status, ambiguous.json.fields]).toEqual([409, [{ path: 'owner', message: 'must be one of @ada, @bob' }]]);
    const bobs = await install('@bob/weather');
    expect([bobs.status, bobs.json.error]).toEqual([
      409,
      'a skill of that name is there from another publisher: delete it, or say force',
    ]);
    expect((await install('weather', { owner: 'bob', force: true })).json).toMatchObject({
      outcome: 'updated',
      registry: { owner: 'bob' },
    });
  });

  test('is updated to the newest, stays where it is pinned, and is uninstalled', async () => {
    await install('weather', { version: '1.0.0' });
    const update = (body?: object) =>
      app.call('POST', '/api/v1/skills/weather/registry-update', { key: user.key, ...(body ? { body } : {}) });
    expect((await update()).json).toMatchObject({ outcome: 'updated', current_version: 2, registry: { version: '1.1.0' } });
    expect((await update()).json).toMatchObject({ outcome: 'unchanged', current_version: 2 });
    registry.skills[0]!.versions.push({ version: '1.2.0', files: files('weather', 'Third.') });
    await app.call('PUT', '/api/v1/skills/weather', { key: user.key, body: { pinned: true } });
    expect((await update()).status).toBe(409);
    expect((await install('weather')).status).toBe(409);
    expect((await update({ force: true })).json).toMatchObject({ outcome: 'updated', registry: { version: '1.2.0' } });
    expect((await app.call('DELETE', '/api/v1/skills/%40bob%2Fweather/registry-install', { key: user.key })).status).toBe(404);
    expect((await app.call('DELETE', '/api/v1/skills/%40ada%2Fweather/registry-install', { key: user.key })).status).toBe(204);
    expect(await kept()).toEqual([]);
    expect((await update()).status).toBe(404);
  });

  test('does not take the place of one that was uploaded, unless told to', async () => {
    const put = () =>
      fetch(`${app.url}/api/v1/skills/weather/file`, {
        method: 'PUT',
        headers: { 'x-api-key': user.key },
        body: skillMd('weather'),
      });
    expect((await put()).status).toBe(201);
    expect((await install('weather')).json.error).toContain('was uploaded');
    expect((await app.call('DELETE', '/api/v1/skills/weather/registry-install', { key: user.key })).status).toBe(409);
    expect((await app.call('POST', '/api/v1/skills/weather/registry-update', { key: user.key })).status).toBe(409);
    expect((await install('weather', { force: true })).json).toMatchObject({
      outcome: 'updated',
      origin: 'registry',
      current_version: 2,
    });
  });

  test('may break rules of AgentSkills that its publisher was not held to; that is said', async () => {
    registry.skills.push({
      owner: 'ada',
      slug: 'sloppy',
      versions: [{ version: '1.0.0', files: { 'SKILL.md': `---\nname: Sloppy Skill\ndescription: Fine\nlicense: [1]\n---\n` } }],
    });
    expect((await install('sloppy')).json).toMatchObject({
      name: 'sloppy',
      description: 'Fine',
      warnings: [expect.stringContaining('name: '), expect.stringContaining('license: ')],
    });
  });

  test('is found by words, without those of other places', async () => {
    const { json: found } = await app.get('/api/v1/skill-registry/search?q=weath&limit=5', user.key);
    expect(found.data).toEqual([
      {
        slug: 'weather',
        reference: '@ada/weather',
        owner: 'ada',
        name: 'weather',
        summary: 'About weather',
        version: '1.1.0',
        downloads: 7,
        updated_at: '2025-10-09T08:53:20.000Z',
      },
    ]);
    expect((await app.get('/api/v1/skill-registry/search', user.key)).status).toBe(400);
  });
});

describe('a verdict', () => {
  const judged = (status: 'suspicious' | 'pending' | 'malicious' | 'error') =>
    (registry.skills[0]!.versions[1] = {
      version: '1.1.0',
      files: files('weather'),
      status,
      reasons: ['security.not_clean', 'code.eval'],
    });

  test.each(['suspicious', 'malicious', 'error'] as const)(
    'that is %s keeps the skill out, with its reasons, before it is fetched',
    async (status) => {
      judged(status);
      const answer = await refused('weather', 403, new RegExp(`verdict is ${status}.*The scanners call it ${status}`));
      expect(answer.json.fields).toEqual([
        { path: 'security', message: 'security.not_clean' },
        { path: 'security', message: 'code.eval' },
      ]);
      expect(registry.asked.some((one) => one.includes('/download'))).toBe(false);
      expect((await install('weather', { force: true })).status).toBe(403);
    },
  );

  test('that the operator lets through is kept with the skill', async () => {
    judged('pending');
    expect((await install('weather')).json).toMatchObject({
      outcome: 'created',
      registry: { verdict: { status: 'pending', reasons: ['security.not_clean', 'code.eval'] } },
    });
  });

  const verdict = {
    ok: true,
    decision: 'pass',
    reasons: [],
    slug: 'weather',
    publisherHandle: 'ada',
    version: '1.1.0',
    securityAuditUrl: 'https://x',
    overview: 'o',
    security: { status: 'clean', passed: true },
  };
  const answers: [string, unknown, number][] = [
    ['is not there', { schema: 'clawhub.skill.security-verdicts.v1', items: [] }, 403],
    ['is of another form', { schema: 'v2', items: [verdict] }, 403],
    ['has no overview', { items: [{ ...verdict, overview: '' }] }, 403],
    ['has no audit page', { items: [{ ...verdict, securityAuditUrl: null }] }, 403],
    ['is about another skill', { items: [{ ...verdict, slug: 'frogs' }] }, 403],
    ['is about another version', { items: [{ ...verdict, version: '1.0.0' }] }, 403],
    ['is about another publisher', { items: [{ ...verdict, publisherHandle: 'eve' }] }, 403],
    ['says pass, but not ok', { items: [{ ...verdict, ok: 'yes' }] }, 403],
    ['says ok, but did not pass', { items: [{ ...verdict, security: { status: 'suspicious', passed: false } }] }, 403],
    ['is a list', [], 403],
  ];
  test.each(answers)('that %s is none: nothing is installed', async (_, answer, status) => {
    const whole = Array.isArray(answer) ? answer : { schema: 'clawhub.skill.security-verdicts.v1', ...(answer as object) };
    registry.instead.set('/api/v1/skills/-/', (_request, response) => json(response, whole));
    await refused('weather', status, /verdict/);
  });

  test('that cannot be had keeps the skill out', async () => {
    registry.instead.set('/api/v1/skills/-/', (_, response) => text(response, 500, 'oops'));
    await refused('weather', 502, /status 500/);
    registry.instead.set('/api/v1/skills/-/', (_, response) => text(response, 404, 'Not found'));
    await refused('weather', 403, /gives no security verdict/);
    registry.instead.set('/api/v1/skills/-/', () => undefined);
    await refused('weather', 504, /does not answer in time/);
  });
});

describe('a registry that refuses', () => {
  test.each([
    ['malicious', 403, /flagged as malicious/],
    ['hidden', 403, /currently unavailable/],
    ['pending', 409, /still checking the skill: .*pending a ClawScan/],
    ['removed', 404, /has removed the skill/],
  ] as const)('because the skill is %s is heard', async (moderation, status, words) => {
    registry.skills[0]!.moderation = moderation;
    const answer = await refused('weather', status, words);
    if (moderation === 'pending') expect(answer.headers.get('retry-after')).toBe('60');
    await refused('weather', status, words, { version: '1.0.0' });
  });

  test('knows no such skill, version or tag, or has taken it back', async () => {
    await refused('nope', 404, /no such skill: Skill not found/);
    await refused('weather', 404, /no version of the skill with that tag/, { tag: 'beta' });
    await refused('weather', 404, /no such skill: Version not found/, { version: '7.0.0' });
    registry.skills[0]!.versions[0]!.deleted = true;
    await refused('weather', 404, /removed the skill: Version not available/, { version: '1.0.0' });
    registry.skills[0]!.versions[1]!.deleted = true;
    await refused('weather', 409, /no downloadable version/);
  });

  test('for a while says for how long', async () => {
    registry.instead.set('/api/v1/skills/weather', (_, response) =>
      text(response, 429, 'Rate limit exceeded', { 'Retry-After': '34' }),
    );
    const answer = await refused('weather', 429, /wants us to wait: Rate limit exceeded/);
    expect(answer.headers.get('retry-after')).toBe('34');
    registry.instead.set('/api/v1/skills/weather', (_, response) => text(response, 503, 'away', { 'Retry-After': '99999999' }));
    expect((await refused('weather', 503, /away/)).headers.get('retry-after')).toBe('3600');
  });

  test('has only a place on GitHub, which is said', async () => {
    registry.instead.set('/api/v1/skills/weather/install', (_, response) =>
      json(response, {
        ok: true,
        slug: 'weather',
        installKind: 'github',
        github: { repo: 'a/b', path: 'x', commit: 'c'.repeat(40), contentHash: 'h', sourceUrl: 'https://github.com/a/b' },
      }),
    );
    await refused('weather', 409, /only a place on GitHub/);
  });

  test('what cannot be asked of it is told before it is asked', async () => {
    for (const [slug, body, path] of [
      ['a%b', undefined, 'path.slug'],
      ['@ada/x/y', undefined, 'path.slug'],
      ['@Ada!/x', undefined, 'path.slug'],
      ['weather', { version: '1.0.0', tag: 'latest' }, 'tag'],
      ['weather', { version: '../../x' }, 'version'],
      ['@ada/weather', { owner: 'bob' }, 'owner'],
    ] as const) {
      const answer = await install(slug, body);
      expect([answer.status, answer.json.fields?.[0]?.path], slug).toEqual([400, path]);
    }
    expect(registry.asked).toEqual([]);
    registry.skills.push({ owner: 'ada', slug: 'not_a.name', versions: [{ version: '1.0.0', files: files('x') }] });
    await refused('not_a.name', 422, /cannot be the name of a skill/);
  });
});

describe('a registry that lies', () => {
  const download = (answer: (response: ServerResponse) => void) =>
    registry.instead.set('/api/v1/download', (_, response) => answer(response));
  const give = (bytes: Buffer, headers: Record<string, string | number> = {}) =>
    download((response) => response.writeHead(200, { 'Content-Type': 'application/zip', ...headers }).end(bytes));
  const honest = () => registry.archive(registry.skills[0]!, registry.skills[0]!.versions[1]!);

  test('about sizes is refused', async () => {
    download((response) => {
      response.writeHead(200, { 'Content-Type': 'application/zip', 'Content-Length': honest().length + 5_000 });
      response.end(honest());
      response.socket?.end();
    });
    await refused('weather', 502, /broke off|stopped in the middle/);
    download((response) => response.writeHead(200, { 'Content-Length': 60_000_000 }).end('x'));
    await refused('weather', 502, /larger than 50000000 bytes/);
    download((response) => response.writeHead(200, { 'Content-Length': 100 }).end(honest()));
    expect((await install('weather')).status).toBeGreaterThanOrEqual(422);
    expect(await kept()).toEqual([]);
  });

  test('with an answer that never ends is stopped at 50 MB', async () => {
    download((response) => {
      response.writeHead(200, { 'Content-Type': 'application/zip' });
      const piece = Buffer.alloc(1_000_000);
      const more = (): void => {
        while (!response.destroyed && response.write(piece));
      };
      response.on('drain', more);
      more();
    });
    await refused('weather', 502, /larger than 50000000 bytes/);
    registry.instead.clear();
    registry.instead.set('/api/v1/skills/weather', (_, response) => json(response, { skill: { slug: 'x'.repeat(3_000_000) } }));
    await refused('weather', 502, /larger than 2000000 bytes/);
  });

  test('about content, or what it is, is refused', async () => {
    const [skill] = registry.skills;
    const other = { ...skill!.versions[1]!, files: { ...files('weather'), 'scripts/look.sh': '#!/bin/bash\nrm -rf /\n' } };
    give(registry.archive(skill!, other));
    await refused('weather', 502, /another checksum/);
    give(
      registry.archive(skill!, { ...skill!.versions[1]!, files: { 'SKILL.md': files('weather', 'Ask a frog.')['SKILL.md'] } }),
    );
    await refused('weather', 502, /is not in its archive/);
    give(registry.archive(skill!, { ...skill!.versions[1]!, files: { ...skill!.versions[1]!.files, 'extra.sh': 'x' } }));
    await refused('weather', 502, /is not listed/);
    give(registry.archive({ ...skill!, slug: 'frogs' }, skill!.versions[1]!));
    await refused('weather', 502, /of another skill or version/);
    give(registry.archive(skill!, { ...skill!.versions[1]!, version: '1.0.0' }));
    await refused('weather', 502, /of another skill or version/);
    give(Buffer.from('<html>hello</html>'), { 'Content-Type': 'text/html' });
    await refused('weather', 502, /something else than a zip/);
    give(honest(), { 'Content-Encoding': 'gzip' });
    await refused('weather', 502, /compresses what it was asked not to/);
  });

  test('with an archive that would do harm is refused as an upload would be', async () => {
    const meta = { name: '_meta.json', bytes: '{"slug":"weather","version":"1.1.0"}' };
    give(zip([{ name: 'SKILL.md', bytes: skillMd('weather') }, meta, { name: '../../evil' }]));
    await refused('weather', 422, /archive is refused: \.\.\/\.\.\/evil has a name that leads out/);
    give(zip([{ name: 'SKILL.md', bytes: skillMd('weather') }, meta, { name: 'bomb', bytes: Buffer.alloc(50_000_000) }]));
    await refused('weather', 422, /larger than 20000000 bytes when unpacked/);
    give(zip([{ name: 'SKILL.md', bytes: skillMd('weather') }, meta, { name: 'link', mode: 0o120777, bytes: '/etc/passwd' }]));
    await refused('weather', 422, /symbolic link/);
  });

  test.each([
    ['nothing of use', {}],
    ['a list', []],
    ['null', null],
    ['numbers for words', { skill: { slug: 7, tags: 7 }, owner: 7, latestVersion: 7, moderation: 7 }],
    ['__proto__', JSON.parse('{"skill":{"__proto__":{"slug":"x"}}}')],
    ['another publisher', { skill: { slug: 'weather' }, owner: { handle: 'eve' } }],
  ])('by answering with %s is refused', async (_, answer) => {
    registry.instead.set('/api/v1/skills/weather', (__, response) => json(response, answer));
    await refused('@ada/weather', 502, /names no skill|another publisher/);
  });

  test('in words that would do harm is quoted in one bounded line', async () => {
    registry.instead.set('/api/v1/skills/weather', (_, response) =>
      text(response, 403, `no\u001b[31m\r\n\u202e${'x'.repeat(5_000)}`),
    );
    const { json: answer } = await refused('weather', 403, /^the registry refuses the skill: no \[31m x+$/);
    expect(answer.error.length).toBeLessThan(400);
  });
});

describe('a registry that sends us elsewhere', () => {
  let decoy: Server;
  let reached = 0;
  beforeAll(async () => {
    decoy = createServer((socket) => (reached++, socket.end()));
    await new Promise<void>((resolve) => decoy.listen(0, '127.0.0.1', resolve));
  });
  afterAll(() => new Promise<void>((resolve) => decoy.close(() => resolve())));

  const places = () => {
    const { port } = decoy.address() as AddressInfo;
    return [
      [`http://127.0.0.1:${port}/x`, 502, /unusual port/],
      ['http://127.0.0.1/x', 502, /not public/],
      ['http://localhost/x', 503, /cannot be reached|not public/],
      ['http://169.254.169.254/latest/meta-data/', 502, /not public/],
      ['http://[::ffff:127.0.0.1]/x', 502, /not public/],
      ['http://2130706433/x', 502, /not public/],
      ['http://0x7f.1/x', 502, /not public/],
      ['http://10.0.0.1/x', 502, /not public/],
      ['ftp://127.0.0.1/x', 502, /no plain URL/],
      ['file:///etc/passwd', 502, /no plain URL/],
      ['http://user:pass@example.com/x', 502, /no plain URL/],
    ] as const;
  };

  test('by a redirect or by its downloadUrl: never to what is not public', async () => {
    for (const [place, status, words] of places()) {
      for (const path of ['/api/v1/download', '/api/v1/skills/weather/install']) {
        registry.instead.clear();
        registry.instead.set(path, (_, response) => {
          if (path.endsWith('download')) response.writeHead(302, { Location: place }).end();
          else
            json(response, {
              ok: true,
              slug: 'weather',
              installKind: 'archive',
              archive: { version: '1.1.0', downloadUrl: place },
            });
        });
        const answer = await install('weather');
        expect([place, [status, 503].includes(answer.status)], answer.text).toEqual([place, true]);
        if (answer.status === status) expect(answer.json.error).toMatch(words);
      }
    }
    expect(reached).toBe(0);
    expect(await kept()).toEqual([]);
  }, 60_000);

  test('within itself is followed, but not for ever, and never with a question that writes', async () => {
    registry.instead.set('/api/v1/download', (_, response, url) => {
      const hop = Number(url.searchParams.get('hop') ?? 0) + 1;
      if (hop < 4) response.writeHead(307, { Location: `/api/v1/download?hop=${hop}` }).end();
      else
        response
          .writeHead(200, { 'Content-Type': 'application/zip' })
          .end(registry.archive(registry.skills[0]!, registry.skills[0]!.versions[1]!));
    });
    expect((await install('weather')).status).toBe(201);
    registry.instead.set('/api/v1/download', (_, response, url) => void response.writeHead(302, { Location: url.href }).end());
    expect((await install('weather', { version: '1.0.0' })).json.error).toMatch(/around in circles/);
    registry.instead.clear();
    registry.instead.set('/api/v1/skills/-/', (_, response) => void response.writeHead(307, { Location: '/elsewhere' }).end());
    expect((await install('weather', { version: '1.0.0' })).json.error).toMatch(/around in circles/);
  });
});

describe('a registry in trouble', () => {
  test('that is slow to answer, stops in the middle or drips is left within its time', async () => {
    const slow: [string, (response: ServerResponse) => void][] = [
      ['silent', () => undefined],
      ['stops', (response) => void response.writeHead(200, { 'Content-Type': 'application/zip' }).write('PK')],
      [
        'drips',
        (response) => {
          response.writeHead(200, { 'Content-Type': 'application/zip' });
          const drip = setInterval(() => (response.destroyed ? clearInterval(drip) : response.write('P')), 100);
        },
      ],
    ];
    for (const [name, act] of slow) {
      registry.instead.set('/api/v1/download', (_, response) => act(response));
      const start = performance.now();
      await refused('weather', 504, /in time|in the middle|more than 5 s/);
      expect(performance.now() - start, name).toBeLessThan(10_000);
    }
  }, 30_000);

  test('that hangs up, speaks no HTTP or no JSON is a failure of its own', async () => {
    registry.instead.set('/api/v1/skills/weather', (request) => void request.socket.destroy());
    await refused('weather', 502, /broke off/);
    registry.instead.set('/api/v1/skills/weather', (request) => void request.socket.end('SSH-2.0-hello\r\n'));
    await refused('weather', 502, /broke off/);
    registry.instead.set('/api/v1/skills/weather', (_, response) => text(response, 200, 'hello'));
    await refused('weather', 502, /not JSON/);
    registry.instead.set(
      '/api/v1/skills/weather',
      (_, response) => void response.writeHead(502, { 'Content-Type': 'text/html' }).end('<h1>Bad gateway</h1>'),
    );
    expect((await refused('weather', 502, /status 502/)).text).not.toContain('<h1>');
  });

  test('that is away answers 503, and a client that goes away ends the call', async () => {
    const away = await startApp({ beside: app, env: { CLAWHUB_URL: 'http://127.0.0.1:1' } });
    const answer = await away.call('POST', '/api/v1/skills/weather/registry-install', { key: user.key });
    expect([answer.status, answer.json.error]).toEqual([503, 'the registry cannot be reached']);
    expect((await away.get('/api/v1/skill-registry/search?q=x', user.key)).status).toBe(503);
    await away.stop();
    const gone = new Promise<void>((resolve) =>
      registry.instead.set('/api/v1/skills/weather', (request) => void request.socket.on('close', () => resolve())),
    );
    const controller = new AbortController();
    const call = app.call('POST', '/api/v1/skills/weather/registry-install', { key: user.key, signal: controller.signal });
    setTimeout(() => controller.abort(), 100);
    await expect(call).rejects.toThrow();
    await gone;
  });
});

test('what is downloaded again is the archive of the registry', async () => {
  await install('weather');
  const response = await fetch(`${app.url}/api/v1/skills/weather/file`, { headers: { 'x-api-key': user.key } });
  const names = (await readArchive(Buffer.from(await response.arrayBuffer()), 'zip')).map(({ path }) => path);
  expect(names).toContain('_meta.json');
});
