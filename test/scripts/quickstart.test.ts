import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { createServer as createHttpServer } from 'node:http';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { docker, REPOSITORY, run, script, type Ended } from './script.js';

let dataDir: string;
let usualPort: Server | undefined;

const NOBODYS_SETTINGS = {
  PORT: undefined,
  RUNTIME: undefined,
  OPENAI_API_KEY: undefined,
  ANTHROPIC_API_KEY: undefined,
  ADMIN_API_KEY: undefined,
};
const environment = (more: Record<string, string | undefined> = {}) => ({
  ...NOBODYS_SETTINGS,
  DATABASE_URL: undefined,
  DATA_DIR: dataDir,
  ...more,
});
const quickstart = (flags: string[], env: Record<string, string | undefined> = {}): Promise<Ended> =>
  script('quickstart', flags, { env: environment(env) });

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'berth-quickstart-'));
  usualPort = createServer().listen(8080, '127.0.0.1');
  // Taken by somebody else already: as good.
  await once(usualPort, 'listening').catch(() => (usualPort = undefined));
});
afterAll(async () => {
  usualPort?.close();
  await rm(dataDir, { recursive: true, force: true });
});

/** The quickstart as in a terminal: a process group of its own, which gets the signal of Ctrl-C as a whole. */
function startInTerminal() {
  const env = { ...process.env, ...environment() };
  const child = spawn('bash', [join(REPOSITORY, 'scripts/quickstart')], {
    cwd: REPOSITORY,
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => (said += text));
  const ended = once(child, 'close').then(([code]) => code as number | null);
  return {
    said: () => said,
    hear: (pattern: RegExp) =>
      expect
        .poll(() => (child.exitCode === null ? said : `ended early: ${said}`), { timeout: 90_000, interval: 50 })
        .toMatch(pattern),
    async pressCtrlC() {
      process.kill(-child.pid!, 'SIGINT');
      return ended;
    },
  };
}

/** What the README's lines answer, pasted one after the other; only port and folder are those of this run. */
async function runReadme(origin: string): Promise<string[]> {
  const readme = await readFile(join(REPOSITORY, 'README.md'), 'utf8');
  const block = /```sh\n(curl [^]*?)```/.exec(readme)![1]!;
  const lines = block.replaceAll('\\\n', ' ').trim().split('\n');
  const answers: string[] = [];
  for (const line of lines) {
    const here = line.replace('http://127.0.0.1:8080', origin).replace('cat data/', `cat ${dataDir}/`);
    const ended = await run('bash', ['-c', here.replace('curl ', 'curl -sS --fail-with-body ')]);
    expect(ended, line).toMatchObject({ code: 0 });
    answers.push(ended.stdout);
  }
  return answers;
}

describe('with an engine', () => {
  test(
    'it shows the deploy, streams an answer, prints three lines that work, and serves until Ctrl-C',
    { timeout: 120_000 },
    async () => {
      const terminal = startInTerminal();
      await terminal.hear(/Ctrl-C stops it/);
      const said = terminal.said();
      expect(said).toMatch(/Port 8080 is taken, so Berth takes \d+/);
      expect(said).toMatch(/creating .*\n[^]*ready +100 %/);
      expect(said).toContain('You said: Hello from the quickstart! Who are you?');
      expect(said).toMatch(/Tool shell said: \d+\n/);
      expect(said).toContain(`Admin key  in ${dataDir}/admin.key`);

      const curls = said.split('\n').filter((line) => line.startsWith('curl '));
      expect(curls).toHaveLength(3);
      const answers = await Promise.all(
        curls.map((line) => run('bash', ['-c', line.replace('curl ', 'curl -sS --fail-with-body ')])),
      );
      expect(answers.map(({ code }) => code)).toEqual([0, 0, 0]);
      expect(answers[0]!.stdout).toMatch(/event: done/);
      expect(JSON.parse(answers[1]!.stdout)).toMatchObject({ choices: [{ message: { content: 'You said: Hello' } }] });
      expect(JSON.parse(answers[2]!.stdout)).toHaveProperty('totals');
      const origin = /http:\/\/127\.0\.0\.1:\d+/.exec(said)![0];

      const [made, chat, user] = await runReadme(origin);
      expect(JSON.parse(made!)).toMatchObject({ name: 'researcher' });
      expect(chat).toMatch(/event: done/);
      expect(JSON.parse(user!)).toMatchObject({ name: 'ada', api_key: expect.any(String) });
      expect((await fetch(`${origin}/docs`)).status).toBe(200);

      const second = await quickstart(['--once']);
      expect(second).toMatchObject({ code: 1, stderr: expect.stringMatching(/quickstart: Berth did not start: \w.*\d+/) });
      expect(second.stderr).not.toMatch(/"level"|^ +at /m);

      expect(await terminal.pressCtrlC()).toBe(0);
      expect(terminal.said()).toContain('Berth has stopped.');
      await expect(fetch(`${origin}/health`)).rejects.toThrow();
    },
  );

  test('keys are readable by their owner alone, and the admin key is not in the log', async () => {
    for (const name of ['admin.key', 'demo.key', 'berth.log'])
      expect((await stat(join(dataDir, name))).mode & 0o777, name).toBe(0o600);
    const key = (await readFile(join(dataDir, 'admin.key'), 'utf8')).trim();
    expect(await readFile(join(dataDir, 'berth.log'), 'utf8')).not.toContain(key);
  });

  test('a second run uses the same user, agents and container', { timeout: 120_000 }, async () => {
    const again = await quickstart(['--once']);
    expect(again).toMatchObject({ code: 0, stdout: expect.stringContaining('demo (of the last time') });
    expect(again.stdout).toContain('You said: Hello');
    expect(again.stdout).toContain('To keep it serving');
    expect(again.stdout).not.toMatch(/^curl /m);
  });

  test('--clean leaves nothing of the demo user on the engine', { timeout: 120_000 }, async () => {
    const installation = (await readFile(join(dataDir, 'installation.id'), 'utf8')).trim();
    const left = () => docker('ps', '-aq', '--filter', `label=berth.installation=${installation}`);
    expect((await left()).split('\n')).toHaveLength(1);
    expect(await quickstart(['--clean'])).toMatchObject({ code: 0, stdout: expect.stringContaining('is deleted') });
    expect(await left()).toBe('');
    expect(await docker('volume', 'ls', '-q', '--filter', `label=berth.installation=${installation}`)).toBe('');
  });
});

test('without an engine it says loudly what that means, and goes on with plain processes', { timeout: 120_000 }, async () => {
  const noEngine = { DOCKER_HOST: 'unix:///nowhere/docker.sock' };
  const ended = await quickstart(['--once'], noEngine);
  expect(ended).toMatchObject({ code: 0, stderr: expect.stringContaining('NOT isolated') });
  expect(ended.stdout).toContain('You said: Hello');
  expect(await quickstart(['--clean'], noEngine)).toMatchObject({ code: 0, stdout: expect.stringContaining('is deleted') });
});

test('mistakes in the settings are all named, and nothing is started', { timeout: 60_000 }, async () => {
  const ended = await quickstart(['--once'], { RUNTIME: 'process', PORT: 'eighty', LOG_LEVEL: 'loud' });
  expect(ended).toMatchObject({ code: 2, stderr: expect.stringMatching(/PORT must be a whole number[^]*LOG_LEVEL must be/) });
  expect(await quickstart(['--twice'])).toMatchObject({ code: 2, stderr: expect.stringContaining('usage') });
});

test('--help says what the flags do', async () => {
  const ended = await quickstart(['--help']);
  expect(ended).toMatchObject({ code: 0, stderr: '', stdout: expect.stringMatching(/^usage: [^]*--once [^]*--clean /) });
});

test('--clean makes nothing where there is nothing to delete', async () => {
  const folder = join(dataDir, 'never');
  const ended = await quickstart(['--clean'], { DATA_DIR: folder });
  expect(ended).toMatchObject({ code: 0, stdout: expect.stringContaining('There is no demo user') });
  await expect(stat(folder)).rejects.toThrow('ENOENT');
});

test("another Berth on the port that was asked for is not taken for one's own", { timeout: 60_000 }, async () => {
  const other = createHttpServer((_, response) => response.end('{"info":{"title":"Berth"}}')).listen(0, '127.0.0.1');
  await once(other, 'listening');
  const { port } = other.address() as AddressInfo;
  const folder = join(dataDir, 'wrong');
  const ended = await quickstart(['--once'], { RUNTIME: 'process', PORT: String(port), DATA_DIR: folder });
  other.close();
  expect(ended).toMatchObject({ code: 1, stderr: expect.stringContaining(`Another Berth listens on port ${port}`) });
  expect(ended.stderr).not.toMatch(/ENOENT|^ +at /m);
  await expect(stat(folder)).rejects.toThrow('ENOENT');
});
