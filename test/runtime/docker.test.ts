import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile, rm, stat, statfs, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DockerRuntime } from '../../src/runtime/docker/docker.js';
import type { InstanceSpec, LogLine } from '../../src/runtime/runtime.js';
import { runtimeContract } from './contract.js';
import { Bench, EventReader, eventually, readLog, silentLog, untilLogged } from './harness.js';
import { testImage } from './image.js';
import { PrivateEngine } from './private-engine.js';

const run = promisify(execFile);

const MAY_MOUNT = process.getuid?.() === 0 && existsSync('/dev/loop-control');

runtimeContract('docker', async () => {
  const bench = new Bench(await testImage());
  return {
    bench,
    make: (installationId) =>
      new DockerRuntime({ installationId, log: silentLog, disks: { dir: join(bench.folder, 'disks'), limits: 'auto' } }),
    killsOnMemory: true,
    keepsCutCharacters: false,
    bound: MAY_MOUNT ? 'hard' : 'soft',
    dispose: async () => bench.dispose(),
  };
});

describe('a docker instance', () => {
  let bench: Bench;
  let runtime: DockerRuntime;

  beforeAll(async () => {
    bench = new Bench(await testImage());
    runtime = new DockerRuntime({ installationId: bench.run, log: silentLog });
  });

  afterAll(async () => {
    const { instances } = await runtime.list();
    for (const { name } of instances) await runtime.remove(name);
    for (const { name } of (await runtime.list()).volumes) await runtime.removeVolume(name);
    await runtime.close();
    bench.dispose();
  });

  test('is sealed off, as seen from inside', async () => {
    const spec = bench.spec();
    await writeFile(join(spec.linkDir, 'token'), 'a-secret-token');
    await runtime.create(spec);
    await runtime.start(spec.name);
    bench.tell(spec, { probe: true });
    const probed = JSON.parse((await untilLogged(runtime, spec.name, '{')).text) as Record<string, string>;
    expect(probed).toMatchObject({
      root: 'EROFS',
      link: 'EROFS',
      shm: 'EROFS',
      mqueue: 'EROFS',
      data: 'ok',
      noexec: 'EACCES',
      interfaces: 'lo',
      hostname: spec.hostname,
      env: 'BERTH_INSTANCE HOME HOSTNAME NODE_OPTIONS PATH',
    });
    const { uid } = spec;
    expect(probed['status']!.replace(/\s+/g, ' ')).toBe(
      `Uid: ${uid} ${uid} ${uid} ${uid}; Gid: ${uid} ${uid} ${uid} ${uid}; CapEff: 0000000000000000; NoNewPrivs: 1; Seccomp: 2`,
    );
    expect(probed['limits']!.replace(/ +/g, ' ')).toBe('Max core file size 0 0 bytes ; Max open files 4096 4096 files ');
    // Node raises its own soft limit to the hard one. Of processes there are init and the program.
    expect(Number(probed['processes'])).toBe(2);

    const { stdout } = await run('docker', ['inspect', spec.name]);
    expect(stdout).not.toContain('a-secret-token');
  });

  test('is held to changed limits at once, and refuses what it cannot be held to', async () => {
    const spec = bench.spec();
    await runtime.create(spec);
    await runtime.start(spec.name);
    await runtime.update(spec.name, { memoryMib: 300, cpuMillis: 250, pids: 77 });
    const { stdout } = await run('docker', ['inspect', '--format', '{{json .HostConfig}}', spec.name]);
    const mib = 1024 * 1024;
    const limits = { Memory: 300 * mib, MemorySwap: 300 * mib, NanoCpus: 250_000_000, PidsLimit: 77 };
    expect(JSON.parse(stdout)).toMatchObject({ ...limits, ReadonlyRootfs: true, CapDrop: ['ALL'] });
    await expect(runtime.update(spec.name, { memoryMib: 1, cpuMillis: 250, pids: 77 })).rejects.toMatchObject({
      code: 'unprocessable',
    });
    const after = await run('docker', ['inspect', '--format', '{{json .HostConfig}}', spec.name]);
    expect(JSON.parse(after.stdout)).toMatchObject(limits);
  });

  test('with a disk of its own finds it again when the host was started anew, and never another one in its place', async () => {
    if (!MAY_MOUNT) return; // The contract says that there are none then.
    const dir = join(bench.folder, 'disks');
    const disked = new DockerRuntime({ installationId: bench.run, log: silentLog, disks: { dir, limits: 'hard' } });
    const spec = bench.spec({ diskMib: 8 });
    await disked.create(spec);
    await disked.start(spec.name);
    bench.tell(spec, { keep: 'a pearl' }, { say: ['stdout', 'written\n'] });
    await untilLogged(disked, spec.name, 'written');
    const mountPoint = join(dir, spec.volume, 'mnt');
    const mounts = (await readFile('/proc/mounts', 'utf8')).split('\n').filter((line) => line.includes(spec.volume));
    expect(mounts).toHaveLength(2); // On the host, and where the engine keeps its volumes.
    for (const line of mounts) expect(line).toMatch(/ ext4 rw,nosuid,nodev,/);
    expect(await stat(join(mountPoint, 'data'))).toMatchObject({ uid: spec.uid, gid: spec.uid });

    await run('docker', ['stop', '-t', '0', spec.name]);
    await run('umount', [mountPoint]);
    await expect(run('docker', ['start', spec.name])).rejects.toThrow(/no such file or directory/);
    bench.forget(spec);
    await disked.start(spec.name);
    bench.tell(spec, { recall: true });
    await untilLogged(disked, spec.name, 'kept: a pearl');

    // As where an instance takes another's place.
    const second = bench.spec({ volume: spec.volume, deploymentId: spec.deploymentId, uid: spec.uid, diskMib: 8 });
    await disked.create(second);
    await disked.start(second.name);
    await disked.remove(spec.name);
    expect(await disked.diskUse(spec.volume)).toBeDefined();
    bench.tell(second, { recall: true });
    await untilLogged(disked, second.name, 'kept: a pearl');
    await disked.remove(second.name);
    expect(await disked.diskUse(spec.volume)).toBeUndefined();
    await disked.removeVolume(spec.volume);
    expect(existsSync(join(dir, spec.volume))).toBe(false);
    expect((await run('losetup', ['--list'])).stdout).not.toContain(spec.volume);
    await disked.close();
  });

  test('without its image or its link folder is refused in plain words', async () => {
    await expect(runtime.create(bench.spec({ image: 'berth-missing:1' }))).rejects.toMatchObject({
      code: 'unprocessable',
      message: expect.stringContaining('image is missing'),
    });
    await expect(runtime.create(bench.spec({ linkDir: '/nowhere/at/all' }))).rejects.toMatchObject({
      code: 'unprocessable',
      message: expect.stringContaining('/nowhere/at/all'),
    });
  });

  test('that is removed from outside is told of, and one without all labels is left alone', async () => {
    const events = await new EventReader(runtime).untilListening();
    const spec = bench.spec();
    await runtime.create(spec);
    await runtime.start(spec.name);
    await run('docker', ['rm', '-f', spec.name]);
    await events.until(spec.name, 'die', 'remove');
    expect(await runtime.inspect(spec.name)).toBeUndefined();

    const stray = `${bench.run}-stray`;
    await run('docker', ['create', '--name', stray, '--label', `berth.installation=${bench.run}`, bench.image]);
    try {
      expect((await runtime.list()).instances.some((found) => found.name === stray)).toBe(false);
      await runtime.remove(stray);
      await expect(runtime.create(bench.spec({ name: stray }))).rejects.toMatchObject({ code: 'conflict' });
      expect((await run('docker', ['inspect', stray])).stdout).toContain(stray);
    } finally {
      await run('docker', ['rm', '-f', stray]);
    }
    await events.close();
  });

  test('five at once: each comes up, each is found, each goes', async () => {
    const specs = Array.from({ length: 5 }, () => bench.spec());
    await Promise.all(specs.map((spec) => runtime.create(spec)));
    await Promise.all(specs.map((spec) => runtime.start(spec.name)));
    const { instances } = await runtime.list();
    const up = instances.filter((found) => specs.some((spec) => spec.name === found.name) && found.state === 'running');
    expect(up).toHaveLength(5);
    expect((await Promise.all(specs.map((spec) => runtime.stats(spec.name)))).every((stats) => stats!.memoryBytes > 0)).toBe(
      true,
    );
    await Promise.all(specs.map((spec) => runtime.remove(spec.name)));
  });
});

describe('an engine that is stopped, frozen and filled up', () => {
  let bench: Bench;
  let engine: PrivateEngine;
  let runtime: DockerRuntime;
  let events: EventReader;
  const warnings: string[] = [];

  beforeAll(async () => {
    engine = await PrivateEngine.create(400);
    await engine.start();
    bench = new Bench(await testImage(engine.host));
    const log = pino({ level: 'warn' }, { write: (line: string) => void warnings.push(line) });
    const deadlines = { readMs: 2000, changeMs: 2000, startMs: 4000, heartbeatMs: 300 };
    runtime = new DockerRuntime({ installationId: bench.run, dockerHost: engine.host, log, deadlines });
    events = await new EventReader(runtime).untilListening();
  });

  afterAll(async () => {
    await events.close();
    await runtime.close();
    for (const { name } of (await leftOvers()).instances) await run('docker', ['-H', engine.host, 'rm', '-f', name]);
    await engine.dispose();
    bench.dispose();
  });

  const leftOvers = async () => {
    const looker = new DockerRuntime({ installationId: bench.run, dockerHost: engine.host, log: silentLog });
    return looker.list().finally(() => looker.close());
  };

  const resyncs = () => events.seen.filter((event) => event.type === 'resync').length;

  async function running(): Promise<InstanceSpec> {
    const spec = bench.spec();
    await runtime.create(spec);
    await runtime.start(spec.name);
    bench.tell(spec, { say: ['stdout', 'ready\n'] });
    await untilLogged(runtime, spec.name, 'ready');
    return spec;
  }

  test('stopped: calls say so, followers are told; back: resync, and all is as it stands', async () => {
    const spec = await running();
    const seen: LogLine[] = [];
    const follow = (async () => {
      for await (const lines of runtime.logs(spec.name, { follow: true, tail: 5 }, new AbortController().signal))
        seen.push(...lines);
    })();
    const ending = follow.then(
      () => 'ended',
      (error: unknown) => (error as { code?: string }).code,
    );
    await eventually(() => expect(seen).toHaveLength(1));
    const before = resyncs();
    await engine.stop();
    // The engine ends its containers first, so a follower may see the end of the instance instead.
    expect(['ended', 'unavailable']).toContain(await ending);
    await expect(runtime.list()).rejects.toMatchObject({ code: 'unavailable' });
    await expect(runtime.start(spec.name)).rejects.toMatchObject({ code: 'unavailable' });

    await engine.start();
    await events.untilListening(before + 1);
    expect(await runtime.inspect(spec.name)).toMatchObject({ state: 'exited', instanceId: spec.instanceId });
    bench.forget(spec);
    await runtime.start(spec.name);
    await runtime.stop(spec.name, 1000);
    await runtime.remove(spec.name);
    await events.until(spec.name, 'remove');
  });

  test('frozen: every call settles; thawed: what was asked is done or can be asked again', async () => {
    const spec = await running();
    const before = resyncs();
    warnings.length = 0;
    engine.freeze();
    const asked = performance.now();
    const calls = [
      runtime.check(),
      runtime.list(),
      runtime.stop(spec.name, 0),
      runtime.create(bench.spec()),
      runtime.stats(spec.name),
    ];
    const ends = await Promise.allSettled(calls);
    expect(ends.map((end) => end.status === 'rejected' && (end.reason as { code?: string }).code)).toEqual(
      ends.map(() => 'unavailable'),
    );
    expect(performance.now() - asked).toBeLessThan(5000);
    await eventually(() => expect(warnings.join('')).toContain('events interrupted'));
    engine.thaw();
    await events.untilListening(before + 1);
    await runtime.stop(spec.name, 1000);
    expect((await runtime.inspect(spec.name))?.state).toBe('exited');
    await runtime.remove(spec.name);
  });

  test('full: what needs room is refused in plain words, what frees it works', async () => {
    const spec = await running();
    const ballast = join(engine.dataRoot, 'ballast');
    const { bavail, bsize } = await statfs(engine.dataRoot);
    await writeFile(ballast, '');
    await run('fallocate', ['-l', String(bavail * bsize), ballast]);
    await expect(runtime.create(bench.spec())).rejects.toMatchObject({
      code: 'limit_exceeded',
      message: expect.stringContaining('disk is full'),
    });
    expect((await runtime.inspect(spec.name))?.state).toBe('running');
    await readLog(runtime, spec.name);
    await runtime.stop(spec.name, 1000);
    await runtime.remove(spec.name);
    await truncate(ballast, 0);
    await rm(ballast);
    const after = await running();
    await runtime.remove(after.name);
  });
});
