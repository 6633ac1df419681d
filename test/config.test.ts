import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { ConfigError, Environment, isLoopback, readConfig } from '../src/config.js';

function problemsOf(env: Record<string, string>): string[] {
  try {
    readConfig(env);
    return [];
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
}

describe('readConfig', () => {
  test('nothing is needed on a laptop', () => {
    const { config, secrets } = readConfig({});
    expect(config).toMatchObject({
      host: '127.0.0.1',
      port: 8080,
      runtime: 'docker',
      defaultModel: 'demo/echo',
      dataDir: resolve('data'),
    });
    expect(config.linkDir).toBe(resolve('data/link'));
    expect(Object.values(secrets).every((value) => value === undefined)).toBe(true);
  });

  test('an empty variable counts as unset', () => {
    expect(readConfig({ PORT: '', OPENAI_API_KEY: '', DATA_DIR: '' }).config).toEqual(readConfig({}).config);
  });

  test.each([
    [{}, 'demo/echo'],
    [{ OPENAI_API_KEY: 'k' }, 'openai/gpt-4.1-mini'],
    [{ ANTHROPIC_API_KEY: 'k' }, 'anthropic/claude-sonnet-4-5'],
    [{ OPENAI_API_KEY: 'k', ANTHROPIC_API_KEY: 'k' }, 'openai/gpt-4.1-mini'],
    [{ OPENAI_BASE_URL: 'http://localhost:1/v1' }, 'demo/echo'],
    [{ OPENAI_API_KEY: 'k', DEFAULT_MODEL: 'demo/echo' }, 'demo/echo'],
  ])('with %j agents use %s', (env, model) => {
    expect(readConfig(env).config.defaultModel).toBe(model);
  });

  test('all mistakes are told at once, by variable, and no value is repeated', () => {
    const problems = problemsOf({
      PORT: '99999',
      RUNTIME: 'podman',
      PUBLIC_URL: 'ftp://secret.example',
      ADMIN_API_KEY: 'hunter2',
      PROCESS_TOOLS: 'yes',
      EGRESS_DENY: '10.0.0.0/33,here',
      MASTER_KEY: 'c2hvcnQ=',
      MASTER_KEY_PREVIOUS: 'g'.repeat(64),
      CORS_ORIGINS: 'https://fine.example,https://secret.example/',
      DEFAULT_MODEL: 'openai/gpt-4.1-mini',
    });
    expect(problems.map((problem) => problem.split(' ')[0]).toSorted()).toEqual([
      'ADMIN_API_KEY',
      'CORS_ORIGINS',
      'DEFAULT_MODEL',
      'EGRESS_DENY',
      'MASTER_KEY',
      'MASTER_KEY_PREVIOUS',
      'PORT',
      'PROCESS_TOOLS',
      'PUBLIC_URL',
      'RUNTIME',
    ]);
    expect(problems.join()).not.toMatch(/99999|podman|secret|hunter2|yes|here|c2hv|ggg|fine/);
  });

  test('agents without isolation are refused wherever others could reach them', () => {
    expect(problemsOf({ RUNTIME: 'process', HOST: '0.0.0.0' })).toEqual([
      expect.stringContaining('HOST must be a loopback address'),
    ]);
    expect(problemsOf({ RUNTIME: 'process', HOST: '::1' })).toEqual([]);
    expect(['127.0.0.1', '127.9.9.9', '::1', 'localhost'].every(isLoopback)).toBe(true);
    expect(['0.0.0.0', '::', '10.0.0.1', '127.0.0.1.example.com', ''].some(isLoopback)).toBe(false);
  });

  test('a previous master key is of no use without the present one', () => {
    expect(problemsOf({ MASTER_KEY_PREVIOUS: 'ab'.repeat(32) })).toEqual(['MASTER_KEY_PREVIOUS needs MASTER_KEY']);
  });
});

describe('a setting is refused at start where it would fail later', () => {
  const base64 = randomBytes(32).toString('base64');
  test.each([
    ['MASTER_KEY', [base64, base64.slice(0, -1), ` ${base64}\n`, randomBytes(32).toString('base64url'), 'Ab'.repeat(32)]],
    ['DOCKER_HOST', ['unix:///var/run/docker.sock', '/run/docker.sock', 'tcp://engine:2375', 'http://10.0.0.1:2375']],
    ['CORS_ORIGINS', ['*', 'https://a.example, http://localhost:3000', 'http://[::1]:3000', 'chrome-extension://abcdef']],
    ['DEFAULT_MODEL', ['demo/echo']],
  ])('%s may be %j', (name, texts) => {
    for (const text of texts) expect(problemsOf({ [name]: text })).toEqual([]);
  });

  test.each([
    ['MASTER_KEY', ['x', 'ab'.repeat(31), `${base64}A`, 'ü'.repeat(43)]],
    [
      'DOCKER_HOST',
      ['npipe:////./pipe/docker_engine', 'https://engine:2376', 'ssh://me@host', 'tcp://', 'unix://sock', 'engine'],
    ],
    [
      'CORS_ORIGINS',
      ['a.example', 'localhost:3000', 'https://a.example/', 'https://a.example/x', 'HTTPS://A.example', '*.a.example'],
    ],
    ['DEFAULT_MODEL', ['openai/gpt', 'anthropic/claude', 'mistral/large', 'demo']],
  ])('%s may not be %j', (name, texts) => {
    for (const text of texts) expect([text, problemsOf({ [name]: text })]).toEqual([text, [expect.stringMatching(`^${name} `)]]);
  });

  test('the default model needs its provider', () => {
    expect(problemsOf({ DEFAULT_MODEL: 'openai/gpt' })).toEqual([
      'DEFAULT_MODEL names provider openai, which needs OPENAI_API_KEY or OPENAI_BASE_URL',
    ]);
    expect(problemsOf({ DEFAULT_MODEL: 'openai/gpt', OPENAI_BASE_URL: 'http://localhost:1/v1' })).toEqual([]);
    expect(problemsOf({ DEFAULT_MODEL: 'openai/gpt', OPENAI_API_KEY: 'k' })).toEqual([]);
    expect(problemsOf({ DEFAULT_MODEL: 'anthropic/claude', ANTHROPIC_BASE_URL: 'http://localhost:1' })).toHaveLength(1);
    expect(problemsOf({ DEFAULT_MODEL: 'anthropic/claude', ANTHROPIC_API_KEY: 'k' })).toEqual([]);
  });

  test("the shell's DOCKER_HOST is nobody's business where no engine is used", () => {
    expect(problemsOf({ RUNTIME: 'process', DOCKER_HOST: 'ssh://me@host' })).toEqual([]);
  });
});

describe('docs/operations.md', () => {
  const page = readFileSync(new URL('../docs/operations.md', import.meta.url), 'utf8');
  const rows = [...page.matchAll(/^\| `([A-Z_]+)` \| (unset|`[^`]*`) \| (.+) \|$/gm)].map(([, name = '', value = '']) => [
    name,
    value.replaceAll('`', ''),
  ]);

  test('has every setting, with its default', () => {
    const defaults: Record<string, unknown> = Environment.parse({});
    const said = (name: string): string => {
      const value = defaults[name];
      if (name === 'LINK_DIR') return 'DATA_DIR/link';
      if (value === undefined || (Array.isArray(value) && value.length === 0)) return 'unset';
      return typeof value === 'boolean' ? (value ? 'on' : 'off') : String(value);
    };
    const expected = Object.keys(Environment.shape).map((name) => [name, said(name)]);
    expect(Object.fromEntries(rows)).toEqual(Object.fromEntries(expected));
  });

  test('names the models that keys choose', () => {
    for (const key of ['OPENAI_API_KEY', 'ANTHROPIC_API_KEY'])
      expect(page).toContain(readConfig({ [key]: 'k' }).config.defaultModel);
  });
});
