import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TarEntry } from 'modern-tar';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Answer } from './berth.js';
import { agent, say, startFixture, until, type Fixture } from './fixture.js';
import { digested, packageOf, packed, skill, type TestPackage } from './skill-package.js';

let fixture: Fixture;
let berth: Fixture['berth'];
let version = 0;
let greeter: TestPackage;
let outside: string;

beforeAll(async () => {
  fixture = await startFixture();
  berth = fixture.berth;
  greeter = await packageOf({
    'SKILL.md': '---\nname: greeter\n---\nRun {baseDir}/scripts/greet.sh with a name.\n',
    'scripts/greet.sh': { text: '#!/bin/sh\necho "Hello $1, says $TONE."\n', mode: 0o755 },
    '.clawhub/origin.json': '{"version":1,"slug":"greeter"}\n',
  });
});
beforeEach(() => {
  berth.modelRequests = [];
  outside = mkdtempSync(join(tmpdir(), 'bo-'));
});
afterAll(() => fixture.close());

const onVolume = (...path: string[]) => join(fixture.gateway.dataDir, ...path);
const inWorkspace = (...path: string[]) => onVolume('workspaces', 'a', ...path);
const packagesHere = () => (existsSync(onVolume('.berth/packages')) ? readdirSync(onVolume('.berth/packages')) : []);
const tryConfig = (...agents: object[]) => berth.configure(agents, version + 1);
const context = async () => (await berth.request('GET', '/berth/v1/agents/a/context')).json;
const shell = (command: string) => berth.chat(say('a', `/tool shell ${JSON.stringify({ command })}`));
const trashIsEmpty = () => !existsSync(onVolume('.berth/trash')) || readdirSync(onVolume('.berth/trash')).length === 0;

function put({ tar, digest }: TestPackage): Promise<Answer> {
  return berth.request('PUT', `/berth/v1/packages/${digest}`, tar);
}

/** As Berth does it: the config, the packages that are missing, the config again. */
async function configure(packages: TestPackage[], ...agents: object[]): Promise<void> {
  const first = await tryConfig(...agents);
  for (const digest of first.json.missing ?? []) await put(packages.find((one) => one.digest === digest) as TestPackage);
  const answer = first.status === 200 ? first : await tryConfig(...agents);
  if (answer.status !== 200) throw new Error(answer.text);
  version += 1;
}

const withGreeter = (more: object = {}, ofAgent: object = {}) =>
  agent('a', { skills: [skill('greeter', greeter, more)], ...ofAgent });

describe('a package', () => {
  test('that a config names and that is not here is asked for, and nothing is changed meanwhile', async () => {
    const other = 'f'.repeat(64);
    const answer = await tryConfig(
      agent('a', { skills: [skill('greeter', greeter), skill('x', { ...greeter, digest: other })] }),
    );
    expect(answer).toMatchObject({
      status: 409,
      json: { error: { code: 'missing_packages' }, missing: [greeter.digest, other] },
    });
    expect((await berth.request('GET', '/readyz')).status).toBe(503);
    expect((await berth.request('HEAD', `/berth/v1/packages/${greeter.digest}`)).status).toBe(404);
    expect(await put(greeter)).toMatchObject({ status: 201, json: { digest: greeter.digest } });
    expect((await berth.request('HEAD', `/berth/v1/packages/${greeter.digest}`)).status).toBe(200);
    expect((await put(greeter)).status).toBe(201);
  });

  test('becomes a skill that the agent reads and follows', async () => {
    await configure([], withGreeter({}, { env: { TONE: 'calm' } }));
    expect(statSync(inWorkspace('skills/greeter/scripts/greet.sh')).mode & 0o777).toBe(0o755);
    expect(statSync(inWorkspace('skills/greeter/SKILL.md')).mode & 0o777).toBe(0o644);
    expect(readFileSync(inWorkspace('skills/greeter/.clawhub/origin.json'), 'utf8')).toContain('"greeter"');
    const asked = ['read_file {"path":"skills/greeter/SKILL.md"}', 'shell {"command":"skills/greeter/scripts/greet.sh Ada"}'];
    const { said } = await berth.chat(say('a', asked.map((one) => `/tool ${one}`).join('\n')));
    expect(said).toContain('Run {baseDir}/scripts/greet.sh with a name.');
    expect(said).toContain('Hello Ada, says calm.');
    const system = String(berth.modelRequests[0]?.body.messages[0]?.content);
    expect(system).toContain('# Skills\n\n');
    expect(system).toContain('- greeter: What greeter is for. (skills/greeter/SKILL.md)');
    expect(system).toBe((await context()).system);
    await until('nothing is left over', trashIsEmpty);
  });

  test('of more than 64 MB, of another digest, or cut is refused and leaves nothing', async () => {
    const before = packagesHere();
    expect(await put(digested(Buffer.alloc(64 * 1024 * 1024 + 1)))).toMatchObject({
      status: 413,
      json: { error: { code: 'too_large' } },
    });
    expect(await put({ tar: greeter.tar, digest: '0'.repeat(64) })).toMatchObject({
      status: 400,
      json: { error: { code: 'wrong_digest' } },
    });
    const session = await berth.link();
    const stream = session.request({
      ':method': 'PUT',
      ':path': `/berth/v1/packages/${'1'.repeat(64)}`,
      'content-length': '4096',
    });
    stream.on('error', () => undefined);
    stream.write(greeter.tar.subarray(0, 1000));
    await until('it is being received', () => !trashIsEmpty());
    stream.close(8);
    await until('nothing is left over', trashIsEmpty);
    expect(packagesHere()).toEqual(before);
    expect((await berth.request('PUT', '/berth/v1/packages/..%2f', greeter.tar)).status).toBe(404);
  });

  const file = (name: string): TarEntry => ({ header: { name, size: 4, type: 'file' }, body: 'text' });
  const special = (type: NonNullable<TarEntry['header']['type']>, linkname?: string): TarEntry => ({
    header: { name: 'x', size: 0, type, ...(linkname === undefined ? {} : { linkname }) },
  });
  const hostile: [string, () => Promise<TestPackage> | TestPackage][] = [
    ['an absolute path', () => packed([file('/tmp/berth-was-here')])],
    ['a path that leads out', () => packed([file('a/../../../../berth-was-here')])],
    ['a path that begins with ..', () => packed([file('../berth-was-here')])],
    ['a backslash', () => packed([file('a\\..\\b')])],
    ['an empty part in a path', () => packed([file('a//b')])],
    ['a symbolic link', () => packed([special('symlink', '/etc')])],
    ['a hard link', () => packed([special('link', '/etc/passwd')])],
    ['a link and a file through it', () => packed([special('symlink', '/tmp'), file('x/berth-was-here')])],
    ['a character device', () => packed([special('character-device')])],
    ['a block device', () => packed([special('block-device')])],
    ['a pipe', () => packed([special('fifo')])],
    ['two files of one name', () => packed([file('a'), file('a')])],
    ['a file where a folder is', () => packed([file('a/b'), file('a')])],
    ['a folder below a file', () => packed([file('a'), file('a/b')])],
    ['folders without end', () => packed([file(`${'d/'.repeat(40)}x`)])],
    ['more than 5,000 entries', () => packed(Array.from({ length: 5001 }, () => special('directory')))],
    ['an end before its end', () => digested(greeter.tar.subarray(0, 1024))],
    ['no end', () => digested(greeter.tar.subarray(0, -1024))],
    ['a wrong checksum', () => digested(Buffer.concat([Buffer.from('X'), greeter.tar.subarray(1)]))],
    ['a size beyond its end', async () => withSize(await packed([file('a')]), 1024 ** 3)],
    ['more after its end', () => digested(Buffer.concat([greeter.tar, Buffer.from('more')]))],
    ['nothing in it', () => digested(Buffer.alloc(0))],
    ['what is no tar', () => digested(Buffer.from('<html>'.repeat(500)))],
  ];

  test.each(hostile)('with %s is refused and leaves nothing', async (_what, make) => {
    const before = packagesHere();
    expect(await put(await make())).toMatchObject({ status: 400, json: { error: { code: 'bad_archive' } } });
    expect(packagesHere()).toEqual(before);
    await until('nothing is left over', trashIsEmpty);
    expect(
      ['/tmp/berth-was-here', onVolume('berth-was-here'), onVolume('.berth/berth-was-here')].filter((path) => existsSync(path)),
    ).toEqual([]);
  });
});

describe('skills in a workspace', () => {
  test('are replaced with another digest, removed when unlisted, and those that the agent made stay', async () => {
    const newer = await packageOf({ 'SKILL.md': 'newer' });
    await configure([greeter], withGreeter());
    writeFileSync(inWorkspace('skills/greeter/notes.txt'), "the agent's");
    mkdirSync(inWorkspace('skills/own'));
    await configure([greeter], withGreeter({ description: 'other words' }));
    expect(existsSync(inWorkspace('skills/greeter/notes.txt'))).toBe(true);
    await configure([newer], agent('a', { skills: [skill('greeter', newer)] }));
    expect(readdirSync(inWorkspace('skills/greeter'))).toEqual(['SKILL.md']);
    expect(packagesHere()).toEqual([newer.digest]);
    rmSync(inWorkspace('skills/greeter'), { recursive: true });
    await configure([newer], agent('a', { skills: [skill('greeter', newer)] }));
    expect(readFileSync(inWorkspace('skills/greeter/SKILL.md'), 'utf8')).toBe('newer');
    await configure([], agent('a'));
    expect(readdirSync(inWorkspace('skills'))).toEqual(['own']);
    expect(packagesHere()).toEqual([]);
  });

  test("are in the registry's lock file, beside what the agent has installed itself", async () => {
    const lock = () => JSON.parse(readFileSync(inWorkspace('.clawhub/lock.json'), 'utf8'));
    const entry = { version: '1.2.0', installedAt: 1, ownerHandle: 'ada' };
    await configure([greeter], withGreeter({ lock: entry }));
    expect(lock()).toEqual({ version: 1, skills: { greeter: entry } });
    const own = { version: '3.0.0', installedAt: 2 };
    writeFileSync(inWorkspace('.clawhub/lock.json'), JSON.stringify({ version: 1, skills: { greeter: entry, own } }));
    await configure([greeter], withGreeter({ lock: { ...entry, version: '1.3.0' } }));
    expect(lock().skills).toEqual({ greeter: { ...entry, version: '1.3.0' }, own });
    await configure([greeter], withGreeter());
    expect(lock().skills).toEqual({ own });
    writeFileSync(inWorkspace('.clawhub/lock.json'), 'no JSON');
    await configure([greeter], withGreeter({ lock: entry }));
    expect(lock().skills).toEqual({ greeter: entry });
  });

  test('never come through links that the agent has planted', async () => {
    await configure([], agent('a'));
    const traps: [string, string][] = [
      ['skills', outside],
      ['skills/greeter', outside],
      ['.clawhub', outside],
      ['.clawhub/lock.json', join(outside, 'lock.json')],
    ];
    for (const [path, target] of traps) {
      for (const name of ['skills', '.clawhub']) rmSync(inWorkspace(name), { recursive: true, force: true });
      writeFileSync(join(outside, 'lock.json'), 'theirs');
      if (path.includes('/')) mkdirSync(inWorkspace(path.split('/')[0] as string), { recursive: true });
      symlinkSync(target, inWorkspace(path));
      await configure([greeter], withGreeter({ lock: { version: '1' } }));
      expect(readFileSync(inWorkspace('skills/greeter/SKILL.md'), 'utf8')).toContain('greet.sh');
      expect(lstatSync(inWorkspace(path)).isSymbolicLink()).toBe(false);
      expect(readdirSync(outside)).toEqual(['lock.json']);
      expect(readFileSync(join(outside, 'lock.json'), 'utf8')).toBe('theirs');
      await configure([], agent('a'));
    }
    // The same on the way out: what is removed is removed from the workspace.
    await configure([greeter], withGreeter());
    mkdirSync(join(outside, 'greeter'));
    rmSync(inWorkspace('skills'), { recursive: true });
    symlinkSync(outside, inWorkspace('skills'));
    await configure([], agent('a'));
    expect(existsSync(join(outside, 'greeter'))).toBe(true);
    rmSync(inWorkspace('skills'));
  });

  test('cannot be held by taking rights away, and neither can the whole workspace', async () => {
    await configure([greeter], withGreeter());
    await shell('chmod 555 skills/greeter/scripts skills/greeter skills; chmod 000 .');
    await configure([], agent('a'));
    expect(existsSync(inWorkspace('skills'))).toBe(true);
    expect(existsSync(inWorkspace('skills/greeter'))).toBe(false);
    await shell('mkdir -p deep/er; touch deep/er/x; chmod 000 deep/er deep .');
    await configure([], agent('b'));
    expect(existsSync(inWorkspace())).toBe(false);
    await until('nothing is left over', trashIsEmpty);
  });

  test('are right after a kill in the midst of putting them in place', async () => {
    const files = Object.fromEntries(Array.from({ length: 3 }, (_, i) => [`f${i}`, 'x'.repeat(2000)]));
    const many = await packageOf({ 'SKILL.md': 'many', ...files });
    const skills = Array.from({ length: 60 }, (_, i) => skill(`s${i}`, many));
    await configure([], agent('a'));
    await put(many);
    const link = berth.nextLink();
    void tryConfig(agent('a', { skills })).catch(() => undefined);
    await until('some are there', () => existsSync(inWorkspace('skills')) && readdirSync(inWorkspace('skills')).length > 5);
    await fixture.gateway.stop('SIGKILL');
    const left = readdirSync(inWorkspace('skills'));
    expect(left.length).toBeLessThan(60);
    for (const name of left) expect(readdirSync(inWorkspace('skills', name))).toHaveLength(4);

    fixture.gateway.start();
    await link;
    // What the dead one had begun is known to be Berth's, though no config says so any more.
    await configure([], agent('a', { skills: [] }));
    expect(readdirSync(inWorkspace('skills'))).toEqual([]);
    expect(packagesHere()).toEqual([]);
    await configure([many], agent('a', { skills }));
    expect(readdirSync(inWorkspace('skills'))).toHaveLength(60);
    await until('nothing is left over', trashIsEmpty);
  });
});

describe('the skills in the prompt', () => {
  const shown = async () => [...(await context()).system.matchAll(/^- (\S+): /gm)].map(([, name]: string[]) => name);

  test('are those whose requirements hold; the others are named with the reason', async () => {
    const requires = {
      plain: {},
      bash: { requires: { bins: ['bash', 'ls'] } },
      missing: { requires: { bins: ['bash', 'no-such-program'] } },
      path: { requires: { bins: ['/bin/bash'] } },
      any: { requires: { anyBins: ['no-such-program', 'bash'] } },
      none: { requires: { anyBins: ['no-such-program', 'nor-this'] } },
      env: { requires: { env: ['TONE', 'TOKEN'] } },
      unset: { requires: { env: ['TONE', 'UNSET'] } },
      empty: { requires: { env: ['EMPTY'] } },
      setting: { requires: { config: ['browser.enabled'] } },
      linux: { os: ['darwin', 'linux'] },
      mac: { os: ['darwin'], always: true },
      always: { always: true, requires: { bins: ['no-such-program'], env: ['UNSET'] } },
    };
    const skills = Object.entries(requires).map(([name, more]) => skill(name, greeter, more));
    const env = { TONE: 'calm', EMPTY: '' };
    await configure([greeter], agent('a', { skills, env, secrets: { TOKEN: 'sesame' } }));
    expect(await shown()).toEqual(['plain', 'bash', 'any', 'env', 'linux', 'always']);
    const { hidden_skills: hidden, parts } = await context();
    expect(Object.fromEntries(hidden.map(({ name, why }: { name: string; why: string }) => [name, why]))).toEqual({
      missing: 'it needs no-such-program, which is not installed',
      path: 'it needs /bin/bash, which is not installed',
      none: 'it needs one of no-such-program, nor-this, and none is installed',
      unset: 'it needs UNSET, which is not set',
      empty: 'it needs EMPTY, which is not set',
      setting: 'it needs a setting that agents here do not have: browser.enabled',
      mac: 'it is for darwin',
    });
    expect(parts.map(({ name }: { name: string }) => name)).toEqual(['identity', 'tools', 'skills']);
    // A secret that goes takes the skill along, in the next turn.
    await configure([], agent('a', { skills, env }));
    expect(await shown()).not.toContain('env');
  });

  test.each([
    ['150 skills', 160, 'short', 150],
    ['18,000 characters', 40, 'a long line\n'.repeat(80), 18],
  ])('are at most %s, and a notice says how many are left out', async (_what, count, description, most) => {
    const skills = Array.from({ length: count }, (_, i) => skill(`s${i}`, greeter, { description }));
    await configure([greeter], agent('a', { skills }));
    expect(await shown()).toHaveLength(most);
    const { parts, hidden_skills: hidden } = await context();
    const { text } = parts.find(({ name }: { name: string }) => name === 'skills');
    expect(text.length).toBeLessThan(18_500);
    expect(text).toContain(`[${count - most} more skills are not shown here`);
    expect(hidden).toHaveLength(count - most);
  });

  test.each([
    ['name', { name: '../x' }],
    ['name', { name: 'UPPER' }],
    ['digest', { digest: '../x' }],
    ['description', { description: '' }],
    ['requires\\.bins', { requires: { bins: 'git' } }],
    ['os', { os: 'linux' }],
    ['always', { always: 'yes' }],
    ['lock', { lock: 'x' }],
  ])('are refused with the field where their %s is wrong', async (field, wrong) => {
    const answer = await tryConfig(agent('a', { skills: [skill('greeter', greeter, wrong)] }));
    const message = expect.stringMatching(`^agents\\[0\\]\\.skills\\[0\\]\\.${field}`);
    expect(answer).toMatchObject({ status: 400, json: { error: { message } } });
  });
});

/** The same archive with another size in its first header, and a checksum that fits. */
function withSize({ tar }: TestPackage, size: number): TestPackage {
  const copy = Buffer.from(tar);
  copy.write(size.toString(8).padStart(11, '0'), 124);
  copy.fill(' ', 148, 156);
  const sum = copy.subarray(0, 512).reduce((total, byte) => total + byte, 0);
  copy.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return digested(copy);
}
