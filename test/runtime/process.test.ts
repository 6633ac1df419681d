import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { launchOf } from '../../src/runtime/process/launch.js';
import { identify, lookAt } from '../../src/runtime/process/proc.js';
import { ProcessRuntime, type ProcessRuntimeOptions } from '../../src/runtime/process/process.js';
import { changes, type Glimpse } from '../../src/runtime/process/watcher.js';
import type { InstanceSpec } from '../../src/runtime/runtime.js';
import { runtimeContract } from './contract.js';
import { Bench, EventReader, eventually, readLog, silentLog, untilLogged } from './harness.js';

const gatewayPath = fileURLToPath(new URL('entry.mjs', import.meta.url));

runtimeContract('process', async () => {
  const bench = new Bench('ignored');
  const dataDir = join(bench.folder, 'data');
  return {
    bench,
    make: (installationId) => new ProcessRuntime({ installationId, dataDir, gatewayPath, log: silentLog }),
    killsOnMemory: false,
    keepsCutCharacters: true,
    bound: 'soft',
    dispose: async () => bench.dispose(),
  };
});

describe('the process runtime', () => {
  const bench = new Bench('ignored');
  const dataDir = join(bench.folder, 'data');
  const make = (changes: Partial<ProcessRuntimeOptions> = {}) =>
    new ProcessRuntime({ installationId: bench.run, dataDir, gatewayPath, log: silentLog, ...changes });
  const runtime = make();

  afterAll(async () => {
    for (const { name } of (await runtime.list()).instances) await runtime.remove(name);
    bench.dispose();
  });

  async function running(by = runtime): Promise<InstanceSpec> {
    const spec = bench.spec();
    await by.create(spec);
    await by.start(spec.name);
    bench.tell(spec, { say: ['stdout', 'ready\n'] });
    await untilLogged(by, spec.name, 'ready');
    return spec;
  }

  const stateFile = (spec: InstanceSpec) => join(dataDir, 'states', `${spec.name}.json`);
  const pidOf = (spec: InstanceSpec) => (JSON.parse(readFileSync(stateFile(spec), 'utf8')) as { pid: number }).pid;
  const shimOf = (spec: InstanceSpec) =>
    (JSON.parse(readFileSync(join(dataDir, 'instances', spec.name, 'shim.json'), 'utf8')) as { pid: number }).pid;

  test('gives an instance nothing of its own environment, and no tools', async () => {
    process.env['OPENAI_API_KEY'] = 'must-not-be-seen';
    const spec = await running();
    delete process.env['OPENAI_API_KEY'];
    const env = Object.fromEntries(
      readFileSync(`/proc/${pidOf(spec)}/environ`, 'utf8')
        .split('\0')
        .filter(Boolean)
        .map((pair) => pair.split(/=(.*)/s, 2)),
    );
    const data = join(dataDir, 'volumes', spec.volume, 'data');
    expect(env).toEqual({
      PATH: '/usr/local/bin:/usr/bin:/bin',
      HOME: join(data, 'home'),
      LANG: 'C.UTF-8',
      NODE_OPTIONS: '--max-old-space-size=134',
      BERTH_INSTANCE: spec.instanceId,
      BERTH_LINK_DIR: spec.linkDir,
      BERTH_DATA_DIR: data,
      BERTH_PROXY_PORT: 'off',
      BERTH_SHELL: 'off',
      BERTH_FETCH: 'off',
    });
    expect(readFileSync(`/proc/${shimOf(spec)}/environ`, 'utf8')).not.toContain('must-not-be-seen');
    const withTools = launchOf(spec, data, { gatewayPath, allowTools: true });
    expect(withTools.env).toMatchObject({ BERTH_SHELL: 'on', BERTH_FETCH: 'on' });
  });

  test('an instance outlives a Berth that is killed, logs on, and is adopted', async () => {
    const spec = bench.spec();
    const script = fileURLToPath(new URL('start-and-die.ts', import.meta.url));
    const input = JSON.stringify({ spec, dataDir, gatewayPath });
    const berth = spawn(process.execPath, ['--import', 'tsx', script, input], { stdio: 'ignore' });
    const [, killedBy] = (await once(berth, 'exit')) as [number, string];
    expect(killedBy).toBe('SIGKILL');
    expect(await runtime.inspect(spec.name)).toMatchObject({ state: 'running', instanceId: spec.instanceId });
    const events = await new EventReader(runtime).untilListening();
    bench.tell(spec, { say: ['stdout', 'still here\n'] });
    await untilLogged(runtime, spec.name, 'still here');
    await runtime.start(spec.name);
    expect(events.of(spec.name)).toEqual([]);
    bench.tell(spec, { exit: 6 });
    await events.until(spec.name, 'die');
    expect(await runtime.inspect(spec.name)).toMatchObject({ state: 'exited', exitCode: 6 });
    await events.close();
  });

  test('killed from outside: the program, its shim, and both', async () => {
    const events = await new EventReader(runtime).untilListening();
    const program = await running();
    process.kill(pidOf(program), 'SIGKILL');
    await events.until(program.name, 'die');
    expect(await runtime.inspect(program.name)).toMatchObject({ state: 'exited', exitCode: 137 });

    const both = await running();
    process.kill(shimOf(both), 'SIGKILL');
    process.kill(pidOf(both), 'SIGKILL');
    await events.until(both.name, 'die');
    expect(await runtime.inspect(both.name)).toMatchObject({ state: 'exited', exitCode: 137, error: expect.any(String) });
    await runtime.start(both.name);
    expect((await runtime.inspect(both.name))?.state).toBe('running');

    const shim = await running();
    process.kill(shimOf(shim), 'SIGKILL');
    await runtime.stop(shim.name, 5000);
    expect((await runtime.inspect(shim.name))?.state).toBe('exited');
    await events.close();
  });

  test('what an instance left behind ends with it', async () => {
    const spec = await running();
    const pid = pidOf(spec);
    bench.tell(spec, { spawn: true });
    const child = Number((await untilLogged(runtime, spec.name, 'child ')).text.slice('child '.length));
    process.kill(pid, 'SIGKILL');
    await eventually(() => expect(lookAt(identify(child))).toBe('gone'));
    await eventually(async () => expect((await runtime.inspect(spec.name))?.state).toBe('exited'));
  });

  test('two log files of 5 MB are kept, and a follower does not miss the turn', async () => {
    const spec = await running();
    let follows = false;
    const follow = (async () => {
      let count = 0;
      for await (const lines of runtime.logs(spec.name, { follow: true, tail: 1 }, AbortSignal.timeout(20_000))) {
        follows ||= lines.length > 0;
        count += lines.filter(({ text }) => text.startsWith('line ')).length;
      }
      return count;
    })();
    const lines = 250_000;
    await eventually(() => expect(follows).toBe(true));
    bench.tell(spec, { count: lines }, { exit: 0 });
    expect(await follow).toBe(lines);
    const folder = join(dataDir, 'instances', spec.name);
    const sizes = ['log', 'log.1'].map((file) => statSync(join(folder, file)).size);
    expect(Math.max(...sizes)).toBeLessThanOrEqual(5 * 1024 * 1024);
    expect(sizes[1]).toBeGreaterThan(5 * 1024 * 1024 - 1000);
    const kept = await readLog(runtime, spec.name, { tail: 1_000_000 });
    expect(kept.at(-1)?.text).toBe(`line ${lines}`);
    expect(kept.length).toBeGreaterThan(100_000);
    expect(await readLog(runtime, spec.name, { tail: 2 })).toHaveLength(2);
  });

  test('names that lead elsewhere are refused', async () => {
    for (const name of ['../x', 'a/b', '', '.', 'x\0']) {
      await expect(runtime.create({ ...bench.spec(), name })).rejects.toMatchObject({ code: 'invalid_request' });
      await expect(runtime.inspect(name)).rejects.toMatchObject({ code: 'invalid_request' });
    }
    await expect(runtime.create({ ...bench.spec(), volume: '../../x' })).rejects.toMatchObject({ code: 'invalid_request' });
  });

  test('a missing gateway is said by check, and by the instance that ends at once', async () => {
    const broken = make({ gatewayPath: '/nowhere/gateway.cjs' });
    await expect(broken.check()).rejects.toMatchObject({
      code: 'unavailable',
      message: expect.stringContaining('/nowhere/gateway.cjs'),
    });
    const spec = bench.spec();
    await broken.create(spec);
    await broken.start(spec.name);
    await eventually(async () => expect(await broken.inspect(spec.name)).toMatchObject({ state: 'exited', exitCode: 1 }));
    const log = await readLog(broken, spec.name, { stream: 'stderr' });
    expect(log.map((line) => line.text).join('\n')).toContain('Cannot find module');
  });
});

describe('changes between two looks', () => {
  const glimpse = (life: string | undefined, state: Glimpse['state']): Glimpse => ({
    name: 'n',
    instanceId: 'i',
    deploymentId: 'd',
    life,
    state,
  });
  const cases: [string, Glimpse | undefined, Glimpse | undefined, string[]][] = [
    ['nothing', glimpse('1', 'running'), glimpse('1', 'running'), []],
    ['created', undefined, glimpse(undefined, 'created'), []],
    ['started', glimpse(undefined, 'created'), glimpse('1', 'running'), ['start']],
    ['started and ended', glimpse(undefined, 'created'), glimpse('1', 'exited'), ['start', 'die']],
    ['ended', glimpse('1', 'running'), glimpse('1', 'exited'), ['die']],
    ['restarted', glimpse('1', 'running'), glimpse('2', 'running'), ['die', 'start']],
    ['restarted and ended', glimpse('1', 'running'), glimpse('2', 'exited'), ['die', 'start', 'die']],
    ['started again', glimpse('1', 'exited'), glimpse('2', 'running'), ['start']],
    ['paused', glimpse('1', 'running'), glimpse('1', 'paused'), ['pause']],
    ['unpaused', glimpse('1', 'paused'), glimpse('1', 'running'), ['unpause']],
    ['ended while paused', glimpse('1', 'paused'), glimpse('1', 'exited'), ['die']],
    ['removed while running', glimpse('1', 'running'), undefined, ['die', 'remove']],
    ['removed', glimpse('1', 'exited'), undefined, ['remove']],
  ];
  test.each(cases)('%s', (_, before, after, expected) => {
    expect(changes(before, after)).toEqual(expected);
  });
});
