import { describe, expect, test } from 'vitest';
import { systemClock } from '../../src/lib/clock.js';
import { Apply, type Hands } from '../../src/reconciler/apply.js';
import { Progress } from '../../src/reconciler/progress.js';

type Leased = Parameters<Apply['step']>[2];

const lease = { deploymentId: 'dep', userId: 'usr', owner: 'p', epoch: '1' };

function take(hands: object, step: Parameters<Apply['step']>[0], instance: object) {
  const leased = { deployment: { id: 'dep', config_version: 3, desired: 'running' }, instance, agents: [] };
  const signal = new AbortController().signal;
  return new Apply(hands as Hands).step(step, lease, leased as unknown as Leased, new Progress(systemClock, []), signal);
}

test('no pass stays with an instance that has been started and does not connect', async () => {
  const hands = { work: { enter: async () => {} } };
  expect(await take(hands, { do: 'connect' }, { id: 'ins_a' })).toEqual({ lookAgainInMs: expect.any(Number) });
});

describe('a start', () => {
  /** Hands that note what is written of the instance. */
  function handsWith(state: string, links: object, onWrite: (values: object) => void) {
    return {
      work: { enter: async () => {}, updateInstance: async (_lease: object, _id: string, values: object) => onWrite(values) },
      runtime: { start: async () => {}, inspect: async () => ({ state, startedAt: 1 }) },
      links,
      assembly: { configOf: async (_id: string, version: number) => ({ version, agents: [] }), packagesOf: () => undefined },
      gateway: { configure: async () => {} },
    };
  }

  test('that the engine ends before the gateway connects is written down, and the gateway told in the same step', async () => {
    const written: object[] = [];
    let connect = () => {};
    const connected = new Promise<void>((resolve) => (connect = resolve));
    const hands = handsWith('running', { waitFor: () => connected }, (values) => {
      written.push(values);
      connect();
    });
    await take(hands, { do: 'start' }, { id: 'ins_a', name: 'a' });
    expect(written).toEqual([{ started: { runtimeAtMs: 1, appliedVersion: 0 } }, { applied_version: 3 }]);
  });

  test('of an instance that ends over it waits for no gateway, and leaves none waiting', async () => {
    let isWaiting = false;
    const waitFor = (_id: string, signal: AbortSignal) => {
      isWaiting = true;
      signal.addEventListener('abort', () => (isWaiting = false));
      return new Promise(() => {});
    };
    const written: object[] = [];
    await take(
      handsWith('exited', { waitFor }, (values) => written.push(values)),
      { do: 'start' },
      { id: 'ins_a', name: 'a' },
    );
    expect(written).toEqual([{ started: { runtimeAtMs: 1, appliedVersion: 0 } }]);
    expect(isWaiting).toBe(false);
  });
});
