import { afterEach, expect, test } from 'vitest';
import { createLog } from '../../src/lib/log.js';
import { type Job, Loop } from '../../src/lib/loop.js';
import { until } from '../support/until.js';

const loops: Loop[] = [];
afterEach(() => Promise.all(loops.splice(0).map((loop) => loop.stop())));

/** A loop that runs only when it is woken, and the times at which it did. */
async function begun(gatherMs?: number, run: () => Promise<void> = async () => {}) {
  const at: number[] = [];
  const job: Job = {
    name: 'test',
    everyMs: 600_000,
    gatherMs,
    run: async () => {
      at.push(performance.now());
      await run();
    },
  };
  const loop = new Loop(job, createLog('silent'));
  loops.push(loop);
  loop.start();
  await until(() => at.length === 1, 'the first run');
  // The run itself ends a moment later.
  await new Promise((resolve) => setImmediate(resolve));
  return { loop, at };
}

test('a loop that gathers runs once for all that is asked for meanwhile, and not before its time', async () => {
  const { loop, at } = await begun(60);
  const woken = performance.now();
  for (let n = 0; n < 50; n++) {
    loop.wake();
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
  await until(() => at.length > 1, 'a run');
  loop.wake();
  await until(() => at.length > 2, 'another run');
  expect(at).toHaveLength(3);
  expect(at[1]! - woken).toBeGreaterThanOrEqual(59);
  expect(at[2]! - at[1]!).toBeGreaterThanOrEqual(59);
});

test('what is asked for again and again does not put the run off', async () => {
  const { loop, at } = await begun(30);
  const insist = setInterval(() => loop.wake(), 5);
  await until(() => at.length > 3, 'three runs, woken all the time').finally(() => clearInterval(insist));
});

test('a wake during a run causes one more, after the gathering', async () => {
  let go = () => {};
  const held = new Promise<void>((resolve) => (go = resolve));
  const { loop, at } = await begun(40, () => held);
  loop.wake();
  loop.wake();
  const ended = performance.now();
  go();
  await until(() => at.length === 2, 'one more');
  expect(at[1]! - ended).toBeGreaterThanOrEqual(39);
});

test.each([undefined, 60_000])('a stop does not wait for the next run (gathering: %s ms)', async (gatherMs) => {
  const { loop, at } = await begun(gatherMs);
  if (gatherMs !== undefined) loop.wake();
  await loop.stop();
  expect(at).toHaveLength(1);
});

test('a loop that does not gather runs at once', async () => {
  const { loop, at } = await begun();
  loop.wake();
  await until(() => at.length === 2, 'a run');
});
