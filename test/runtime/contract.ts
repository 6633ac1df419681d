import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { InstanceSpec, LogLine, Runtime } from '../../src/runtime/runtime.js';
import { type Bench, EventReader, eventually, readLog, untilLogged } from './harness.js';

/** What a driver brings to the contract: how to make one, and what of the contract its kind can do. */
export interface Subject {
  bench: Bench;
  make(installationId: string): Runtime;
  /** Memory limits are enforced from outside the instance. */
  killsOnMemory: boolean;
  /** Every byte of a long line is kept. Docker's json-file log cuts at 16 KiB and spoils a character that is cut through. */
  keepsCutCharacters: boolean;
  /** How volumes that it makes can be bounded here. */
  bound: 'hard' | 'soft';
  dispose(): Promise<void>;
}

/** The promises of `runtime.ts`, the same for every driver. */
export function runtimeContract(name: string, setUp: () => Promise<Subject>): void {
  describe(`${name} keeps the runtime contract`, () => {
    let subject: Subject;
    let runtime: Runtime;
    let bench: Bench;
    let events: EventReader;

    beforeAll(async () => {
      subject = await setUp();
      bench = subject.bench;
      runtime = subject.make(bench.run);
      events = await new EventReader(runtime).untilListening();
    });

    afterAll(async () => {
      const { instances } = await runtime.list();
      await Promise.all(instances.map((found) => runtime.remove(found.name)));
      for (const volume of (await runtime.list()).volumes) await runtime.removeVolume(volume.name);
      const left = await runtime.list();
      await events.close();
      await runtime.close();
      await subject.dispose();
      expect(left).toEqual({ instances: [], volumes: [] });
    });

    async function running(changes: Partial<InstanceSpec> = {}): Promise<InstanceSpec> {
      const spec = bench.spec(changes);
      await runtime.create(spec);
      await runtime.start(spec.name);
      bench.tell(spec, { say: ['stdout', 'ready\n'] });
      await untilLogged(runtime, spec.name, 'ready');
      return spec;
    }

    const limits = { memoryMib: 200, cpuMillis: 700, pids: 99 };
    const stateOf = async (spec: InstanceSpec) => (await runtime.inspect(spec.name))?.state;
    const untilState = (spec: InstanceSpec, state: string) => eventually(async () => expect(await stateOf(spec)).toBe(state));

    test('check says who the engine is', async () => {
      expect(await runtime.check()).toEqual({ name: runtime.name, version: expect.stringMatching(/\d/) });
    });

    test('create makes instance and volume, once however often it is called', async () => {
      const spec = bench.spec();
      const before = Date.now();
      const first = await runtime.create(spec);
      expect(first).toMatchObject({
        name: spec.name,
        instanceId: spec.instanceId,
        deploymentId: spec.deploymentId,
        generation: 1,
        state: 'created',
      });
      expect(first.startedAt).toBeUndefined();
      expect(first.exitCode).toBeUndefined();
      expect(Math.abs(first.createdAt - before)).toBeLessThan(10_000);
      expect((await runtime.create(spec)).runtimeId).toBe(first.runtimeId);
      const { volumes } = await runtime.list();
      expect(volumes.filter((found) => found.name === spec.volume)).toMatchObject([{ deploymentId: spec.deploymentId }]);
    });

    test('two creates at once make one instance; two instances of one name conflict', async () => {
      const spec = bench.spec();
      const [one, two] = await Promise.all([runtime.create(spec), runtime.create(spec)]);
      expect(one.runtimeId).toBe(two.runtimeId);

      const name = bench.spec().name;
      const rivals = [bench.spec({ name }), bench.spec({ name })];
      const outcomes = await Promise.allSettled(rivals.map((rival) => runtime.create(rival)));
      expect(outcomes.map((outcome) => outcome.status).sort()).toEqual(['fulfilled', 'rejected']);
      const lost = outcomes.find((outcome) => outcome.status === 'rejected');
      expect(lost?.reason).toMatchObject({ code: 'conflict' });
    });

    test('create under the name of another instance is a conflict and changes nothing', async () => {
      const spec = bench.spec();
      await runtime.create(spec);
      const rival = bench.spec({ name: spec.name });
      await expect(runtime.create(rival)).rejects.toMatchObject({ code: 'conflict' });
      const { instances, volumes } = await runtime.list();
      expect(instances.filter((found) => found.name === spec.name)).toMatchObject([{ instanceId: spec.instanceId }]);
      expect(volumes.some((found) => found.name === rival.volume)).toBe(false);
    });

    test('create with the volume of another deployment is a conflict', async () => {
      const spec = bench.spec();
      await runtime.create(spec);
      await expect(runtime.create(bench.spec({ volume: spec.volume }))).rejects.toMatchObject({ code: 'conflict' });
    });

    test('what is not there: start, pause and unpause say not_found; the rest has nothing to do', async () => {
      const { name, volume } = bench.spec();
      await expect(runtime.start(name)).rejects.toMatchObject({ code: 'not_found' });
      await expect(runtime.pause(name)).rejects.toMatchObject({ code: 'not_found' });
      await expect(runtime.unpause(name)).rejects.toMatchObject({ code: 'not_found' });
      await expect(runtime.update(name, limits)).rejects.toMatchObject({ code: 'not_found' });
      await expect(readLog(runtime, name)).rejects.toMatchObject({ code: 'not_found' });
      await runtime.stop(name, 100);
      await runtime.remove(name);
      await runtime.removeVolume(volume);
      expect(await runtime.inspect(name)).toBeUndefined();
      expect(await runtime.stats(name)).toBeUndefined();
    });

    test('start, stop, start again, remove: each twice, and the events tell it', async () => {
      const spec = bench.spec();
      await runtime.create(spec);
      await Promise.all([runtime.start(spec.name), runtime.start(spec.name)]);
      await runtime.start(spec.name);
      const started = await runtime.inspect(spec.name);
      expect(started?.state).toBe('running');
      expect(Math.abs(started!.startedAt! - Date.now())).toBeLessThan(30_000);
      bench.tell(spec, { say: ['stdout', 'ready\n'] });
      await untilLogged(runtime, spec.name, 'ready');

      await runtime.stop(spec.name, 10_000);
      await runtime.stop(spec.name, 10_000);
      expect(await runtime.inspect(spec.name)).toMatchObject({ state: 'exited', exitCode: 0, oomKilled: false });
      await runtime.start(spec.name);
      expect(await stateOf(spec)).toBe('running');
      await runtime.remove(spec.name);
      await runtime.remove(spec.name);
      expect(await runtime.inspect(spec.name)).toBeUndefined();
      await events.until(spec.name, 'remove');
      expect(events.of(spec.name)).toEqual(['start', 'die', 'start', 'die', 'remove']);
      const one = events.seen.find((event) => 'name' in event && event.name === spec.name);
      expect(one).toMatchObject({ instanceId: spec.instanceId, deploymentId: spec.deploymentId });
    });

    test('an exit of its own is seen, with its code, by event, inspect and list', async () => {
      const spec = await running();
      bench.tell(spec, { exit: 3 });
      await events.until(spec.name, 'die');
      await untilState(spec, 'exited');
      expect(await runtime.inspect(spec.name)).toMatchObject({ exitCode: 3, oomKilled: false });
      const listed = (await runtime.list()).instances.find((found) => found.name === spec.name);
      expect(listed).toMatchObject({ state: 'exited' });
      expect(await runtime.stats(spec.name)).toBeUndefined();
    });

    test('stop ends one that ignores the asking, after its grace', async () => {
      const spec = await running();
      bench.tell(spec, { ignoreTerm: true }, { say: ['stdout', 'deaf\n'] });
      await untilLogged(runtime, spec.name, 'deaf');
      const before = Date.now();
      await runtime.stop(spec.name, 1000);
      expect(Date.now() - before).toBeGreaterThanOrEqual(900);
      expect(await runtime.inspect(spec.name)).toMatchObject({ state: 'exited', exitCode: 137, oomKilled: false });
    });

    test('limits change without a restart, more of them and fewer', async () => {
      const spec = await running();
      const before = await runtime.inspect(spec.name);
      await runtime.update(spec.name, limits);
      await runtime.update(spec.name, spec.limits);
      expect(await runtime.inspect(spec.name)).toMatchObject({ state: 'running', startedAt: before?.startedAt });
    });

    test('pause and unpause, each twice; a paused one can be stopped', async () => {
      const spec = await running();
      await runtime.pause(spec.name);
      await runtime.pause(spec.name);
      expect(await stateOf(spec)).toBe('paused');
      await expect(runtime.start(spec.name)).rejects.toMatchObject({ code: 'conflict' });
      bench.tell(spec, { say: ['stdout', 'thawed\n'] });
      await runtime.unpause(spec.name);
      await runtime.unpause(spec.name);
      await untilLogged(runtime, spec.name, 'thawed');
      await runtime.pause(spec.name);
      await runtime.stop(spec.name, 5000);
      expect(await stateOf(spec)).toBe('exited');
      await expect(runtime.pause(spec.name)).rejects.toMatchObject({ code: 'conflict' });
      await expect(runtime.unpause(spec.name)).rejects.toMatchObject({ code: 'conflict' });
      await events.until(spec.name, 'die');
      expect(events.of(spec.name)).toEqual(expect.arrayContaining(['start', 'pause', 'unpause', 'die']));
    });

    test('what was seen of one spares a look, and does no harm where it is so no longer', async () => {
      const spec = bench.spec();
      const created = await runtime.create(spec);
      await runtime.start(spec.name, created);
      await runtime.start(spec.name, created);
      expect(await stateOf(spec)).toBe('running');
      await runtime.pause(spec.name);
      const paused = await runtime.inspect(spec.name);
      await runtime.unpause(spec.name, paused);
      await runtime.unpause(spec.name, paused);
      expect(await stateOf(spec)).toBe('running');
      await runtime.stop(spec.name, 100);
      await expect(runtime.unpause(spec.name, paused)).rejects.toMatchObject({ code: 'conflict' });
      const stopped = await runtime.inspect(spec.name);
      await runtime.remove(spec.name);
      await expect(runtime.start(spec.name, stopped)).rejects.toMatchObject({ code: 'not_found' });
      await expect(runtime.unpause(spec.name, paused)).rejects.toMatchObject({ code: 'not_found' });
      // Another one under its name is none of what was seen.
      const next = { ...spec, instanceId: `${spec.instanceId}x` };
      await runtime.create(next);
      await runtime.start(spec.name, stopped).catch(() => undefined);
      expect(await runtime.inspect(spec.name)).toMatchObject({ instanceId: next.instanceId });
    });

    test('the volume outlives the instance, refuses removal while used, and is gone after', async () => {
      const first = await running();
      bench.tell(first, { keep: 'a pearl' }, { say: ['stdout', 'written\n'] });
      await untilLogged(runtime, first.name, 'written');
      await expect(runtime.removeVolume(first.volume)).rejects.toMatchObject({ code: 'conflict' });
      // Removing one that runs ends it.
      await runtime.remove(first.name);

      const { volume, deploymentId, uid } = first;
      const second = await running({ volume, deploymentId, uid, generation: 2 });
      bench.tell(second, { recall: true });
      expect((await untilLogged(runtime, second.name, 'kept:')).text).toBe('kept: a pearl');
      await runtime.remove(second.name);
      await runtime.removeVolume(volume);
      await runtime.removeVolume(volume);
      expect((await runtime.list()).volumes.some((found) => found.name === volume)).toBe(false);
    });

    test('a hard bound of a volume holds, grows, and is each volume’s own, whoever looks after it later', async () => {
      expect(await runtime.diskBound()).toMatchObject({ kind: subject.bound });
      if (subject.bound === 'soft') return;
      const [full, other] = [await running({ diskMib: 8 }), await running({ diskMib: 8 })];
      bench.tell(full, { fill: 64 });
      const { text } = await untilLogged(runtime, full.name, 'filled');
      expect(text).toMatch(/^filled \d+ ENOSPC$/);
      expect(Number(text.split(' ')[1])).toBeGreaterThanOrEqual(7);
      expect(Number(text.split(' ')[1])).toBeLessThanOrEqual(18);
      expect((await runtime.diskUse(full.volume))!.freeBytes).toBeLessThan(1 << 20);
      expect((await runtime.diskUse(other.volume))!.freeBytes).toBeGreaterThan(7 << 20);
      bench.tell(other, { keep: 'a pearl' }, { recall: true });
      await untilLogged(runtime, other.name, 'kept: a pearl');

      const successor = subject.make(bench.run);
      await successor.stop(full.name, 5_000);
      bench.forget(full);
      await successor.start(full.name);
      bench.tell(full, { fill: 64 }, { say: ['stdout', 'still\n'] });
      await untilLogged(successor, full.name, 'still');
      await eventually(async () =>
        expect((await readLog(successor, full.name)).filter((line) => line.text === 'filled 0 ENOSPC')).toHaveLength(1),
      );
      // While it is used that takes a privilege that not every root has.
      const isGrown = await successor.growVolume(full.volume, 24);
      await successor.stop(full.name, 5_000);
      expect(await successor.growVolume(full.volume, 24)).toBe(true);
      expect(await successor.growVolume(full.volume, 4)).toBe(true);
      bench.forget(full);
      await successor.start(full.name);
      expect((await successor.diskUse(full.volume))!.freeBytes).toBeGreaterThan(10 << 20);
      expect(typeof isGrown).toBe('boolean');
      await successor.remove(full.name);
      await successor.removeVolume(full.volume);
      expect(await successor.diskUse(full.volume)).toBeUndefined();
      await successor.close();
    });

    test('another installation is neither seen nor touched', async () => {
      const foreignId = `${bench.run}-foreign`;
      const other = subject.make(foreignId);
      const spec = bench.spec({ installationId: foreignId });
      try {
        await other.create(spec);
        await other.start(spec.name);
        const { instances, volumes } = await runtime.list();
        expect(instances.some((found) => found.name === spec.name)).toBe(false);
        expect(volumes.some((found) => found.name === spec.volume)).toBe(false);
        expect(await runtime.inspect(spec.name)).toBeUndefined();
        await runtime.stop(spec.name, 100);
        await runtime.remove(spec.name);
        await runtime.removeVolume(spec.volume);
        await expect(runtime.start(spec.name)).rejects.toMatchObject({ code: 'not_found' });
        await expect(runtime.create(bench.spec({ name: spec.name }))).rejects.toMatchObject({ code: 'conflict' });
        await expect(runtime.create(bench.spec({ volume: spec.volume }))).rejects.toMatchObject({ code: 'conflict' });
        expect((await other.inspect(spec.name))?.state).toBe('running');
        expect((await other.list()).volumes).toHaveLength(1);
        expect(events.of(spec.name)).toEqual([]);
      } finally {
        await other.remove(spec.name);
        await other.removeVolume(spec.volume);
        await other.close();
      }
    });

    test('another runtime object on the same engine sees and ends what the first made', async () => {
      const spec = await running();
      const successor = subject.make(bench.run);
      expect(await successor.inspect(spec.name)).toMatchObject({ state: 'running', instanceId: spec.instanceId });
      const watching = await new EventReader(successor).untilListening();
      bench.tell(spec, { exit: 4 });
      await watching.until(spec.name, 'die');
      expect(await successor.inspect(spec.name)).toMatchObject({ state: 'exited', exitCode: 4 });
      await watching.close();
      await successor.close();
    });

    test('stats of a running instance', async () => {
      const spec = await running();
      const stats = await runtime.stats(spec.name);
      expect(stats!.memoryBytes).toBeGreaterThan(1 << 20);
      expect(stats!.memoryBytes).toBeLessThan(1 << 30);
      expect(stats!.cpuSeconds).toBeGreaterThan(0);
      expect(stats!.cpuSeconds).toBeLessThan(60);
    });

    test('logs: tail, stream, since, and times', async () => {
      const spec = await running();
      bench.tell(spec, { count: 50 }, { say: ['stderr', 'a complaint\n'] });
      const complaint = await untilLogged(runtime, spec.name, 'a complaint');
      await untilLogged(runtime, spec.name, 'line 50');
      expect(complaint.stream).toBe('stderr');
      expect(Math.abs(Date.parse(complaint.time) - Date.now())).toBeLessThan(10_000);
      expect(complaint.time).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z$/);

      const tail = await readLog(runtime, spec.name, { tail: 3, stream: 'stdout' });
      expect(tail.length).toBeLessThanOrEqual(3);
      expect(tail.at(-1)?.text).toBe('line 50');
      const stdout = await readLog(runtime, spec.name, { stream: 'stdout' });
      expect(stdout.map((line) => line.text)).toEqual(['ready', ...Array.from({ length: 50 }, (_, i) => `line ${i + 1}`)]);
      expect((await readLog(runtime, spec.name, { stream: 'stderr' })).map((line) => line.text)).toEqual(['a complaint']);
      expect(await readLog(runtime, spec.name, { tail: 0 })).toEqual([]);

      await eventually(() => expect(Date.now()).toBeGreaterThan(Date.parse(complaint.time) + 20));
      const since = Date.now();
      expect(await readLog(runtime, spec.name, { since })).toEqual([]);
      bench.tell(spec, { say: ['stdout', 'later\n'] });
      await untilLogged(runtime, spec.name, 'later');
      expect((await readLog(runtime, spec.name, { since })).map((line) => line.text)).toEqual(['later']);
    });

    test('logs: long lines and characters of several bytes arrive whole', async () => {
      const spec = await running();
      // One byte first, so that every cut at an even place goes through a character.
      const long = `x${'é'.repeat(30_000)}€😀`;
      bench.tell(
        spec,
        { say: ['stdout', `${long}\n`] },
        { say: ['stdout', 'no newline yet'] },
        { say: ['stdout', ', now\n'] },
        { say: ['stdout', '\n'] },
      );
      await untilLogged(runtime, spec.name, ', now');
      await eventually(async () => expect(await readLog(runtime, spec.name)).toHaveLength(4));
      const lines = await readLog(runtime, spec.name);
      expect([0, 2, 3].map((i) => lines[i]!.text)).toEqual(['ready', 'no newline yet, now', '']);
      const text = lines[1]!.text;
      const mended = subject.keepsCutCharacters ? text : text.replace(/\uFFFD+/g, 'é');
      // Not toBe(long): the difference would be printed in full.
      expect(mended.length).toBe(long.length);
      expect(mended === long).toBe(true);
    });

    test('logs: following gives what comes, and ends with the instance', async () => {
      const spec = await running();
      const seen: LogLine[] = [];
      const follow = (async () => {
        for await (const lines of runtime.logs(spec.name, { follow: true, tail: 10 }, AbortSignal.timeout(20_000)))
          seen.push(...lines);
      })();
      await eventually(() => expect(seen.map((line) => line.text)).toEqual(['ready']));
      bench.tell(spec, { say: ['stdout', 'one\n'] }, { say: ['stderr', 'two\n'] });
      await eventually(() => expect(seen.map((line) => line.text).sort()).toEqual(['one', 'ready', 'two']));
      bench.tell(spec, { say: ['stdout', 'last words\n'] }, { exit: 0 });
      await follow;
      expect(seen.at(-1)?.text).toBe('last words');
      // Of one that does not run there is nothing to follow.
      const after = await readLog(runtime, spec.name, { follow: true });
      expect(after).toHaveLength(4);
    });

    test('logs: a follower ends at once when told to, and one that does not read holds up nobody', async () => {
      const spec = await running();
      const stop = new AbortController();
      const lines = runtime.logs(spec.name, { follow: true, tail: 10 }, stop.signal)[Symbol.asyncIterator]();
      expect((await lines.next()).value).toMatchObject([{ text: 'ready' }]);
      bench.tell(spec, { count: 20_000 });
      await untilLogged(runtime, spec.name, 'line 20000');
      const waiting = runtime.logs(spec.name, { follow: true, tail: 0 }, stop.signal)[Symbol.asyncIterator]().next();
      stop.abort();
      expect((await waiting).done).toBe(true);
      let rest = 0;
      for (let next = await lines.next(); !next.done; next = await lines.next()) rest += next.value.length;
      expect(rest).toBeLessThan(20_000);
    });

    test('events end with their signal, and a closed runtime leaves instances alone', async () => {
      const spec = await running();
      const other = subject.make(bench.run);
      const reader = await new EventReader(other).untilListening();
      await reader.close();
      await other.close();
      expect(await stateOf(spec)).toBe('running');
    });

    test('an instance that takes too much memory is ended', async () => {
      if (!subject.killsOnMemory) return;
      const spec = await running({ limits: { memoryMib: 96, cpuMillis: 2000, pids: 64 } });
      bench.tell(spec, { oom: true });
      await events.until(spec.name, 'oom', 'die');
      await untilState(spec, 'exited');
      expect(await runtime.inspect(spec.name)).toMatchObject({ exitCode: 137, oomKilled: true });
      // The mark is of that end, not of the instance.
      bench.forget(spec);
      await runtime.start(spec.name);
      await runtime.stop(spec.name, 5000);
      expect((await runtime.inspect(spec.name))?.oomKilled).toBe(false);
    });
  });
}
