import { describe, expect, test } from 'vitest';
import { createLog } from '../../src/lib/log.js';
import { Sweep } from '../../src/reconciler/observe.js';
import type { Observed, Runtime } from '../../src/runtime/runtime.js';

const log = createLog('silent');
const observed = (name: string): Observed => ({
  name,
  runtimeId: name,
  instanceId: `ins_${name}`,
  deploymentId: 'dep',
  generation: 1,
  state: 'running',
  createdAt: 0,
});

describe('the sweep', () => {
  test('leaves a folder alone that was made while it looked', async () => {
    const removed: string[] = [];
    let live: { id: string }[] = [];
    const work = {
      liveInstances: async () => {
        const found = live;
        live = [{ id: 'ins_new' }];
        return found;
      },
      lookAgain: async () => {},
      volumes: async () => new Set(),
      pruneEnded: async () => {},
    };
    const links = {
      list: async () => live.map(({ id }) => id),
      remove: async (id: string) => void removed.push(id),
      get: () => undefined,
    };
    const runtime = { list: async () => ({ instances: [], volumes: [] }) };
    await new Sweep({ work, runtime, links, log, orphanGraceMs: 0, now: () => 0 } as unknown as ConstructorParameters<
      typeof Sweep
    >[0]).run();
    expect(removed).toEqual([]);
  });

  test('goes on after an orphan that cannot be removed', async () => {
    const removed: string[] = [];
    const work = {
      liveInstances: async () => [],
      lookAgain: async () => {},
      volumes: async () => new Set(),
      pruneEnded: async () => {},
    };
    const links = { list: async () => ['ins_folder'], remove: async (id: string) => void removed.push(id), get: () => undefined };
    const runtime = {
      list: async () => ({ instances: [observed('stuck'), observed('fine')], volumes: [] }),
      remove: async (name: string) => {
        if (name === 'stuck') throw new Error('device or resource busy');
        removed.push(name);
      },
    };
    await new Sweep({
      work,
      runtime: runtime as unknown as Runtime,
      links,
      log,
      orphanGraceMs: 0,
      now: () => 0,
    } as unknown as ConstructorParameters<typeof Sweep>[0]).run();
    expect(removed).toEqual(['fine', 'ins_folder']);
  });

  test('has looked at what runs without a link, once it should have come back', async () => {
    const looked: string[][] = [];
    let now = 0;
    const live = [
      { id: 'ins_a', deploymentId: 'dep_a', started: true },
      { id: 'ins_b', deploymentId: 'dep_b', started: true },
    ];
    const work = {
      liveInstances: async () => live,
      lookAgain: async (ids: string[]) => void looked.push(ids),
      volumes: async () => new Set(),
      pruneEnded: async () => {},
    };
    const links = { list: async () => [], get: (id: string) => (id === 'ins_a' ? {} : undefined) };
    const runtime = { list: async () => ({ instances: [observed('a'), observed('b')], volumes: [] }) };
    const sweep = new Sweep({ work, runtime, links, log, orphanGraceMs: 0, now: () => now } as unknown as ConstructorParameters<
      typeof Sweep
    >[0]);
    await sweep.run();
    now = 30_000;
    await sweep.run();
    expect(looked).toEqual([[], ['dep_b']]);
  });

  test.each([
    [{ rests: false, state: 'running' }, false],
    [{ rests: false, state: 'paused' }, true],
    [{ rests: false, state: 'exited' }, true],
    [{ rests: true, state: 'paused' }, false],
    [{ rests: true, state: 'exited' }, false],
    [{ rests: true, state: 'running' }, true],
  ] as const)('of what was changed from outside, %o is looked at: %s', async ({ rests, state }, isLookedAt) => {
    const looked: string[][] = [];
    const work = {
      liveInstances: async () => [{ id: 'ins_a', deploymentId: 'dep_a', started: true, rests }],
      lookAgain: async (ids: string[]) => void looked.push(ids),
      volumes: async () => new Set(),
      pruneEnded: async () => {},
    };
    const links = { list: async () => [], get: () => ({}) };
    const runtime = { list: async () => ({ instances: [{ ...observed('a'), state }], volumes: [] }) };
    await new Sweep({ work, runtime, links, log, orphanGraceMs: 0, now: () => 0 } as unknown as ConstructorParameters<
      typeof Sweep
    >[0]).run();
    expect(looked).toEqual([isLookedAt ? ['dep_a'] : []]);
  });
});
