import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { run, script, type Ended } from './script.js';

describe("the machine's engine", () => {
  test('up finds what answers, says where, and changes nothing', async () => {
    const first = await script('engine', ['up']);
    const before = await script('engine', ['status']);
    const second = await script('engine', ['up']);
    const after = await script('engine', ['status']);
    expect(first).toMatchObject({ code: 0, stdout: expect.stringMatching(/^(unix|tcp):\/\/\S+$/) });
    expect(second.stdout).toBe(first.stdout);
    expect(after.stdout).toBe(before.stdout);
    expect(second.stderr).toBe(`engine: using the engine at ${first.stdout}\n`);
  });

  test('a DOCKER_HOST that does not answer is an error, never replaced by another engine', async () => {
    const ended = await script('engine', ['up'], { env: { DOCKER_HOST: 'unix:///nowhere/docker.sock' } });
    expect(ended).toMatchObject({
      code: 8,
      stdout: '',
      stderr: expect.stringContaining('unix:///nowhere/docker.sock does not answer'),
    });
  });

  test('anything but up, down and status is refused', async () => {
    expect(await script('engine', ['restart'])).toMatchObject({ code: 2, stderr: expect.stringContaining('usage') });
  });

  test('a private engine in the network namespace of another is refused', async () => {
    const ended = await script('engine', ['up'], {
      env: { ENGINE_DIR: join(tmpdir(), 'berth-no-engine'), ENGINE_NETNS: undefined },
    });
    expect(ended.code).not.toBe(0);
    expect(ended.stderr).toContain('ENGINE_DIR needs ENGINE_NETNS');
  });
});

describe.skipIf(process.platform !== 'linux' || process.getuid?.() !== 0)('a private engine', () => {
  const name = `berth-${randomUUID().slice(0, 8)}`;
  let dir: string;
  let engine: (command: string) => Promise<Ended>;

  const pid = async (): Promise<number> => Number(await readFile(join(dir, 'docker.pid'), 'utf8'));
  const kill = async (): Promise<void> => {
    const dead = await pid();
    process.kill(dead, 'SIGKILL');
    await expect.poll(() => existsSync(`/proc/${dead}/exe`)).toBe(false);
  };

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'berth-engine-'));
    engine = (command) => script('engine', [command], { env: { ENGINE_DIR: dir, ENGINE_NETNS: name } });
  });
  afterAll(async () => {
    await engine('down');
    await rm(dir, { recursive: true, force: true });
  });

  test('starts in a namespace of its own, once', async () => {
    expect(await engine('status')).toMatchObject({ code: 1 });
    expect(await engine('up')).toMatchObject({ code: 0, stdout: `unix://${dir}/docker.sock` });
    const first = await pid();
    expect(await engine('up')).toMatchObject({ code: 0 });
    expect(await pid()).toBe(first);
    expect((await engine('status')).stdout).toContain(`started here, pid ${first}`);
  });

  test("holds none of its starter's files: a lock taken before `up` is free once the starter has gone", async () => {
    await engine('down');
    const env = { ENGINE_DIR: dir, ENGINE_NETNS: name };
    const started = await run('bash', ['-c', `exec 7>${dir}/lock 37<&0 && flock 7 && scripts/engine up`], { env });
    expect(started).toMatchObject({ code: 0 });
    expect(await run('flock', ['--nonblock', `${dir}/lock`, 'true'])).toMatchObject({ code: 0 });
  });

  test('comes back after a SIGKILL that left its pidfile and its containerd', async () => {
    const first = await pid();
    await kill();
    expect(await engine('up')).toMatchObject({ code: 0 });
    expect(await pid()).not.toBe(first);
  });

  test('comes back over pidfiles that name living strangers', async () => {
    await engine('down');
    await mkdir(join(dir, 'exec/containerd'), { recursive: true });
    await writeFile(join(dir, 'docker.pid'), `${process.pid}`);
    await writeFile(join(dir, 'exec/containerd/containerd.pid'), `${process.pid}`);
    expect(await engine('up')).toMatchObject({ code: 0 });
    expect(await pid()).not.toBe(process.pid);
  });

  test('down leaves an engine alone that it did not start', async () => {
    const mark = await readFile(join(dir, 'docker.pid.berth'), 'utf8');
    await rm(join(dir, 'docker.pid.berth'));
    expect(await engine('down')).toMatchObject({ code: 0, stderr: expect.stringContaining('left alone') });
    expect((await engine('status')).stdout).toContain('not started here');
    expect(existsSync(`/var/run/netns/${name}`)).toBe(true);
    await writeFile(join(dir, 'docker.pid.berth'), mark);
  });

  test('down stops its own and removes the namespace; a second down has nothing to do', async () => {
    const last = await pid();
    expect(await engine('down')).toMatchObject({ code: 0, stderr: expect.stringContaining(`(pid ${last}) is stopped`) });
    expect(await engine('status')).toMatchObject({ code: 1 });
    expect(existsSync(`/var/run/netns/${name}`)).toBe(false);
    expect(await engine('down')).toMatchObject({ code: 0, stderr: expect.stringContaining('nothing to stop') });
  });
});
