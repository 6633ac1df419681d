import { expect, test } from 'vitest';
import { systemClock } from '../../src/lib/clock.js';
import { Apply, type Hands } from '../../src/reconciler/apply.js';
import { Progress } from '../../src/reconciler/progress.js';

test('no pass stays with an instance that has run for long and does not connect', async () => {
  let waits = 0;
  const links = {
    waitFor: (_: string, signal: AbortSignal) =>
      new Promise((_resolve, reject) => (waits++, signal.addEventListener('abort', () => reject(signal.reason)))),
  };
  const apply = new Apply({ links, work: { enter: async () => {} } } as unknown as Hands);
  const leased = (started_ms_ago: number) =>
    ({ deployment: {}, instance: { id: 'ins_a', started_ms_ago } }) as unknown as Parameters<Apply['step']>[2];
  const lease = { deploymentId: 'dep', userId: 'usr', owner: 'p', epoch: '1' };
  const connect = (ms: number) =>
    apply.step({ do: 'connect' }, lease, leased(ms), new Progress(systemClock, []), new AbortController().signal);
  expect(await connect(60_000)).toEqual({ lookAgainInMs: expect.any(Number) });
  expect(waits).toBe(0);
  await connect(100);
  expect(waits).toBe(1);
});
