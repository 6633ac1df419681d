import { readFileSync, watch, type FSWatcher } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { AppError } from '../../src/lib/errors.js';
import { FakeEngine, type FakeProcess } from '../../src/runtime/fake/engine.js';
import { FakeRuntime } from '../../src/runtime/fake/fake.js';
import { runtimeContract } from './contract.js';
import { Bench, EventReader, type Command } from './harness.js';

/** Plays `entry.mjs` for the fake runtime: what it keeps is by volume, what it is told is in its link folder. */
class Program {
  readonly #process: FakeProcess;
  readonly #engine: FakeEngine;
  readonly #kept: Map<string, string>;
  readonly #partial = { stdout: '', stderr: '' };
  #ignoreTerm = false;
  #done = 0;

  constructor(process: FakeProcess, engine: FakeEngine, kept: Map<string, string>) {
    this.#process = process;
    this.#engine = engine;
    this.#kept = kept;
    process.onTerm(() => this.#ignoreTerm || process.exit(0));
    const watcher: FSWatcher = watch(process.spec.linkDir, () => this.#obey());
    process.ended.addEventListener('abort', () => watcher.close());
    this.#obey();
  }

  #obey(): void {
    const file = join(this.#process.spec.linkDir, 'commands');
    const lines = existsThenRead(file).split('\n').slice(0, -1);
    for (const line of lines.slice(this.#done)) {
      this.#done++;
      if (!this.#process.ended.aborted) this.#do(JSON.parse(line) as Command);
    }
  }

  #do(command: Command): void {
    if ('say' in command) this.#say(...command.say);
    else if ('count' in command) for (let i = 1; i <= command.count; i++) this.#say('stdout', `line ${i}\n`);
    else if ('ignoreTerm' in command) this.#ignoreTerm = true;
    else if ('keep' in command) this.#kept.set(this.#process.spec.volume, command.keep);
    else if ('recall' in command) this.#say('stdout', `kept: ${this.#kept.get(this.#process.spec.volume)}\n`);
    else if ('fill' in command) this.#fill(command.fill);
    else if ('oom' in command) this.#engine.die(this.#process.spec.name, { oomKilled: true });
    else if ('exit' in command) this.#process.exit(command.exit);
  }

  #fill(mostMib: number): void {
    const volume = this.#engine.volumes.get(this.#process.spec.volume)!;
    const written = Math.min(mostMib, (volume.sizeMib ?? mostMib) - volume.usedBytes / 2 ** 20);
    volume.usedBytes += written * 2 ** 20;
    this.#say('stdout', `filled ${written} ${written < mostMib ? 'ENOSPC' : 'ok'}\n`);
  }

  #say(stream: 'stdout' | 'stderr', text: string): void {
    const lines = (this.#partial[stream] + text).split('\n');
    this.#partial[stream] = lines.pop() ?? '';
    for (const line of lines) this.#process.log(stream, line);
  }
}

function existsThenRead(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return ''; // Not told anything yet.
  }
}

runtimeContract('fake', async () => {
  const engine = new FakeEngine();
  engine.bound = 'hard';
  const bench = new Bench('fake:1');
  const kept = new Map<string, string>();
  return {
    bench,
    make: (installationId) =>
      new FakeRuntime({ installationId, engine, onStart: (_, process) => void new Program(process, engine, kept) }),
    killsOnMemory: true,
    keepsCutCharacters: true,
    bound: 'hard',
    dispose: async () => bench.dispose(),
  };
});

describe('the fake runtime can be broken', () => {
  const bench = new Bench('fake:1');
  afterAll(() => bench.dispose());
  const setUp = () => {
    const stopped: string[] = [];
    const runtime = new FakeRuntime({ installationId: bench.run, onStop: (spec) => void stopped.push(spec.name) });
    return { runtime, engine: runtime.engine, stopped, spec: bench.spec() };
  };

  test('the next calls of an operation fail, before or after their effect', async () => {
    const { runtime, engine, spec } = setUp();
    engine.fail('create', { times: 2, error: new AppError('limit_exceeded', 'the disk is full') });
    await expect(runtime.create(spec)).rejects.toMatchObject({ code: 'limit_exceeded' });
    await expect(runtime.create(spec)).rejects.toMatchObject({ code: 'limit_exceeded' });
    engine.fail('create', { late: true });
    expect(await runtime.inspect(spec.name)).toBeUndefined();
    await expect(runtime.create(spec)).rejects.toMatchObject({ code: 'unavailable' });
    expect(await runtime.inspect(spec.name)).toMatchObject({ state: 'created' });
    await runtime.create(spec);
    expect(engine.calls.get('create')).toBe(4);
  });

  test('a fault can be for one instance only', async () => {
    const { runtime, engine, spec } = setUp();
    const other = bench.spec();
    engine.fail('create', { only: spec.name });
    await runtime.create(other);
    await expect(runtime.create(spec)).rejects.toMatchObject({ code: 'unavailable' });
  });

  test('the engine goes down and comes back with a resync', async () => {
    const { runtime, engine, spec } = setUp();
    const events = await new EventReader(runtime).untilListening();
    await runtime.create(spec);
    await runtime.start(spec.name);
    engine.goDown();
    await expect(runtime.list()).rejects.toMatchObject({ code: 'unavailable' });
    await expect(runtime.check()).rejects.toMatchObject({ code: 'unavailable' });
    engine.die(spec.name, { exitCode: 9 });
    engine.comeBack();
    await events.untilListening(2);
    expect(await runtime.inspect(spec.name)).toMatchObject({ state: 'exited', exitCode: 9 });
    expect(events.of(spec.name)).not.toContain('die');
    await events.close();
  });

  test('instances die, are killed for memory, vanish, and lose their volume', async () => {
    const { runtime, engine, spec, stopped } = setUp();
    const events = await new EventReader(runtime).untilListening();
    await runtime.create(spec);
    await runtime.start(spec.name);
    engine.die(spec.name, { oomKilled: true });
    expect(await runtime.inspect(spec.name)).toMatchObject({ exitCode: 137, oomKilled: true });
    await runtime.start(spec.name);
    expect((await runtime.inspect(spec.name))?.exitCode).toBeUndefined();
    engine.vanish(spec.name);
    engine.loseVolume(spec.volume);
    expect(await runtime.list()).toEqual({ instances: [], volumes: [] });
    await events.until(spec.name, 'remove');
    expect(events.of(spec.name)).toEqual(['start', 'oom', 'die', 'start', 'die', 'remove']);
    expect(stopped).toEqual([spec.name, spec.name]);
    await events.close();
  });

  test('ten thousand instances cost nothing worth naming', async () => {
    const { runtime } = setUp();
    const base = bench.spec();
    const before = performance.now();
    for (let i = 0; i < 10_000; i++) {
      const name = `${base.name}-${i}`;
      await runtime.create({ ...base, name, instanceId: name, deploymentId: name, volume: name });
      await runtime.start(name);
    }
    expect((await runtime.list()).instances).toHaveLength(10_000);
    expect(performance.now() - before).toBeLessThan(5000);
  });
});
