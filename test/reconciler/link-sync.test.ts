import { describe, expect, test } from 'vitest';
import type { DeploymentWork } from '../../src/domains/deployments/work.js';
import { LocalBus } from '../../src/events/local-bus.js';
import { createLog } from '../../src/lib/log.js';
import type { LinkHost } from '../../src/link/host.js';
import { LinkSync } from '../../src/reconciler/link-sync.js';
import { until } from '../support/until.js';

const log = createLog('silent');

describe('listening for instances', () => {
  const live = (id: string, tokenDigest = 'd', deploymentId = `dep_${id}`) => ({
    id,
    deploymentId,
    userId: 'usr',
    tokenDigest,
    rests: false,
  });

  function sync(instances: () => ReturnType<typeof live>[], failing: string[] = []) {
    const opened: string[] = [];
    const closed: string[] = [];
    const asked: (string[] | undefined)[] = [];
    const work = {
      liveInstances: async (of?: string[]) => {
        asked.push(of);
        return instances().filter(({ deploymentId }) => of?.includes(deploymentId) ?? true);
      },
    } as unknown as DeploymentWork;
    const links = {
      open: async ({ instanceId }: { instanceId: string }, digest: string) => {
        if (failing.includes(instanceId)) throw new Error('no');
        opened.push(`${instanceId} ${digest}`);
      },
      remove: async (id: string) => void closed.push(id),
    } as unknown as LinkHost;
    const bus = new LocalBus(log);
    const of = (allEveryMs: number) => new LinkSync({ work, links, bus, log, allEveryMs, onEnded: () => {} });
    return { of, bus, opened, closed, asked };
  }

  test('touches only what is new: a run costs nothing for what is open already', async () => {
    let now = [live('a'), live('b')];
    const { of, opened, closed } = sync(() => now);
    const job = of(0);
    await job.run();
    now = [live('a', 'other'), live('c')];
    await job.run();
    await job.run();
    expect(opened).toEqual(['a d', 'b d', 'a other', 'c d']);
    expect(closed).toEqual(['b']);
  });

  test('asks only for what the bus names, once all have been looked at', async () => {
    let now = [live('a'), live('b')];
    const { of, bus, opened, closed, asked } = sync(() => now);
    const job = of(60_000);
    job.start();
    await until(() => opened.length === 2, 'both to be open');
    now = [live('a'), live('b'), live('c')];
    bus.publish('deployment', 'dep_c');
    await until(() => opened.includes('c d'), 'the third to be open');
    now = [live('a'), live('b')];
    bus.publish('deployment', 'dep_c');
    await until(() => closed.includes('c'), 'it to be closed');
    await job.stop();
    expect(asked).toEqual([undefined, ['dep_c'], ['dep_c']]);
    expect(closed).toEqual(['c']);
  });

  test('one that cannot be opened hinders no other, and is tried again', async () => {
    const failing = ['a'];
    const { of, opened } = sync(() => [live('a'), live('b')], failing);
    const job = of(60_000);
    await job.run();
    expect(opened).toEqual(['b d']);
    failing.pop();
    await job.run();
    expect(opened).toEqual(['b d', 'a d']);
  });

  test('a run that failed is made up for by one that looks at all', async () => {
    let isAway = false;
    let now = [live('a')];
    const { of, bus, opened } = sync(() => {
      if (isAway) throw new Error('the database is away');
      return now;
    });
    const job = of(60_000);
    job.start();
    await until(() => opened.length === 1, 'the first to be open');
    isAway = true;
    now = [live('a'), live('b')];
    bus.publish('deployment', 'dep_b');
    await until(
      async () =>
        job.run().then(
          () => false,
          () => true,
        ),
      'a run to fail',
    );
    isAway = false;
    await job.run();
    await job.stop();
    expect(opened).toEqual(['a d', 'b d']);
  });
});
