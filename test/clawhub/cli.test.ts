import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { InstanceConfig } from '../../src/gateway/instance-config.js';
import { unpacked } from '../../src/domains/skills/package.js';
import { startApp, type TestApp } from '../support/app.js';
import { skillMd } from '../support/archives.js';
import { FakeClawHub } from '../support/fake-clawhub.js';
import { until } from '../support/until.js';

// The registry's own client installs from the same fake as Berth, so that the fake is known to be true. It needs Node 22; `scripts/setup --clawhub`
// fetches both it and a Node that runs it.
const CLI = resolve('.cache/clawhub/node_modules/clawhub/bin/clawdhub.js');
const NODE = Number(process.versions.node.split('.')[0]) >= 22 ? process.execPath : resolve('.cache/node24/node');

const run = promisify(execFile);
let registry: FakeClawHub;
let app: TestApp;
let work: string;

const files = (body: string) => ({
  'SKILL.md': skillMd('weather', '', body),
  'scripts/look.sh': '#!/bin/bash\necho sunny\n',
  // Sorted otherwise by bytes than by a locale.
  'notes/Zebra.md': 'z',
  'notes/apple.md': 'a',
  'notes/b_c.md': 'b',
  'notes/b-d.md': 'd',
  'Makefile.md': 'm',
});

beforeAll(async () => {
  registry = await FakeClawHub.start({ owner: 'ada', slug: 'weather', versions: [{ version: '1.0.0', files: files('First.') }] });
  app = await startApp({ env: { CLAWHUB_URL: registry.url } });
  work = await mkdtemp(join(tmpdir(), 'ch-'));
});
afterAll(async () => {
  await app.stop();
  await registry.stop();
  await rm(work, { recursive: true, force: true });
});

/** Runs the client in a home of its own; answers what it printed. */
async function clawhub(...args: string[]): Promise<string> {
  const env = {
    PATH: process.env['PATH'],
    HOME: join(work, 'home'),
    CLAWHUB_REGISTRY: registry.url,
    CLAWHUB_SITE: registry.url,
    CLAWHUB_DISABLE_TELEMETRY: '1',
    NO_COLOR: '1',
  };
  const { stdout, stderr } = await run(NODE, [CLI, ...args, '--workdir', join(work, 'space'), '--no-input'], {
    env,
    timeout: 60_000,
  });
  return stdout + stderr;
}

async function jsonAt(...path: string[]): Promise<Record<string, unknown>> {
  return JSON.parse(await readFile(join(work, 'space', ...path), 'utf8')) as Record<string, unknown>;
}

async function filesIn(dir: string): Promise<Map<string, string>> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  const found = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  return new Map(
    await Promise.all(found.map(async (path) => [path.slice(dir.length + 1), await readFile(path, 'utf8')] as const)),
  );
}

describe('the published client and Berth, at one registry', () => {
  test('the client is there to be run', () => {
    expect([existsSync(CLI), existsSync(NODE)], 'scripts/setup --clawhub makes them').toEqual([true, true]);
  });

  test('install the same files, and write the same of where they came from', async () => {
    const user = await app.user();
    await app.agent(user, 'a');
    await app.ready(user);
    expect(await clawhub('install', 'weather')).toContain('Installed');
    const made = await app.call('POST', '/api/v1/skills/weather/registry-install', { key: user.key });
    expect(made.status, made.text).toBe(201);

    const response = await fetch(`${app.url}/api/v1/skills/weather/file?format=tar`, { headers: { 'x-api-key': user.key } });
    const ours = new Map(
      (await unpacked(Buffer.from(await response.arrayBuffer()))).map(({ path, bytes }) => [path, bytes.toString()]),
    );
    const theirs = await filesIn(join(work, 'space', 'skills', 'weather'));
    const theirOrigin = JSON.parse(theirs.get('.clawhub/origin.json') ?? '') as Record<string, unknown>;
    theirs.delete('.clawhub/origin.json');
    expect(Object.fromEntries(ours)).toEqual(Object.fromEntries(theirs));

    expect(made.json.registry.fingerprint).toBe(theirOrigin['fingerprint']);
    const ourOrigin = await originOf(user.key);
    expect({ ...ourOrigin, installedAt: 0 }).toMatchObject({ ...theirOrigin, installedAt: 0 });
    expect(typeof ourOrigin['installedAt']).toBe(typeof theirOrigin['installedAt']);

    const { skills } = (await jsonAt('.clawhub', 'lock.json')) as { skills: Record<string, Record<string, unknown>> };
    const lock = await lockTold('a');
    expect({ ...lock, installedAt: 0 }).toMatchObject({ ...skills['weather'], installedAt: 0 });
    expect(lock['installedAt']).toBe(ourOrigin['installedAt']);
  });

  test('update to the same version, and find the same skill', async () => {
    const user = await app.user();
    await app.call('POST', '/api/v1/skills/%40ada%2Fweather/registry-install', { key: user.key, body: { version: '1.0.0' } });
    registry.skills[0]!.versions.push({ version: '1.1.0', files: files('Second.') });
    await clawhub('update', 'weather', '--force');
    const updated = await app.call('POST', '/api/v1/skills/weather/registry-update', { key: user.key });
    const theirs = (await jsonAt('skills', 'weather', '.clawhub', 'origin.json')) as {
      installedVersion: string;
      fingerprint: string;
    };
    expect(theirs.installedVersion).toBe('1.1.0');
    expect(updated.json.registry).toMatchObject({ version: '1.1.0', fingerprint: theirs.fingerprint });
    expect(await clawhub('search', 'weather')).toContain('weather v1.1.0');
    expect((await app.get('/api/v1/skill-registry/search?q=weather', user.key)).json.data[0]).toMatchObject({
      slug: 'weather',
      version: '1.1.0',
    });
  });

  test('are both told of an ambiguous slug, of a block and of a version that is not there', async () => {
    const user = await app.user();
    const install = (slug: string, body?: object) =>
      app.call('POST', `/api/v1/skills/${encodeURIComponent(slug)}/registry-install`, {
        key: user.key,
        ...(body ? { body } : {}),
      });
    registry.skills.push(
      { owner: 'bob', slug: 'twice', versions: [{ version: '1.0.0', files: { 'SKILL.md': skillMd('twice') } }] },
      { owner: 'eve', slug: 'twice', versions: [{ version: '1.0.0', files: { 'SKILL.md': skillMd('twice') } }] },
      {
        owner: 'eve',
        slug: 'bad',
        moderation: 'malicious',
        versions: [{ version: '1.0.0', files: { 'SKILL.md': skillMd('bad') } }],
      },
    );
    await expect(clawhub('install', 'twice')).rejects.toThrow(/@bob\/twice/);
    expect((await install('twice')).json.fields[0].message).toContain('@bob');
    await clawhub('install', '@bob/twice');
    expect((await install('@bob/twice')).status).toBe(201);
    await expect(clawhub('install', 'bad')).rejects.toThrow(/malicious|malware/);
    expect((await install('bad')).status).toBe(403);
    await expect(clawhub('install', '@eve/twice', '--version', '9.9.9')).rejects.toThrow(/Version not found/);
    expect((await install('@eve/twice', { version: '9.9.9', force: true })).status).toBe(404);
  });
});

/** The origin file as it is in the package that agents get. */
async function originOf(key: string): Promise<Record<string, unknown>> {
  const response = await fetch(`${app.url}/api/v1/skills/weather/file?format=tar`, { headers: { 'x-api-key': key } });
  const tar = Buffer.from(await response.arrayBuffer());
  const at = tar.indexOf('.clawhub/origin.json\0');
  const size = Number.parseInt(tar.toString('latin1', at + 124, at + 135), 8);
  return JSON.parse(tar.toString('utf8', at + 512, at + 512 + size)) as Record<string, unknown>;
}

/** The lock entry that the gateway of an agent was told. */
async function lockTold(agent: string): Promise<Record<string, unknown>> {
  let lock: Record<string, unknown> | undefined;
  await until(() => {
    const told = [...app.gateways.configs.values()].flatMap((config) => (config as unknown as InstanceConfig).agents);
    lock = told.find(({ id }) => id === agent)?.skills?.[0]?.lock;
    return lock !== undefined;
  }, 'the gateway to be told of the skill');
  return lock ?? {};
}
