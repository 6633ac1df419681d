import { describe, expect, test } from 'vitest';
import type { DeploymentWork } from '../../src/domains/deployments/work.js';
import { createLog } from '../../src/lib/log.js';
import type { LinkHost } from '../../src/link/host.js';
import { linkSyncJob } from '../../src/reconciler/link-sync.js';

const log = createLog('silent');

describe('listening for instances', () => {
  const live = (id: string, tokenDigest = 'd') => ({ id, deploymentId: 'dep', userId: 'usr', tokenDigest, rests: false });

  function sync(instances: () => ReturnType<typeof live>[], failing: string[] = []) {
    const opened: string[] = [];
    const closed: string[] = [];
    const work = { liveInstances: async () => instances() } as unknown as DeploymentWork;
    const links = {
      open: async ({ instanceId }: { instanceId: string }, digest: string) => {
        if (failing.includes(instanceId)) throw new Error('no');
        opened.push(`${instanceId} ${digest}`);
      },
      remove: async (id: string) => void closed.push(id),
    } as unknown as LinkHost;
    return { job: linkSyncJob({ work, links, log, onEnded: () => {} }), opened, closed };
  }

  test('touches only what is new: a run costs nothing for what is open already', async () => {
    let now = [live('a'), live('b')];
    const { job, opened, closed } = sync(() => now);
    await job.run(new AbortController().signal);
    now = [live('a', 'other'), live('c')];
    await job.run(new AbortController().signal);
    await job.run(new AbortController().signal);
    expect(opened).toEqual(['a d', 'b d', 'a other', 'c d']);
    expect(closed).toEqual(['b']);
  });

  test('one that cannot be opened hinders no other, and is tried again', async () => {
    const failing = ['a'];
    const { job, opened } = sync(() => [live('a'), live('b')], failing);
    await job.run(new AbortController().signal);
    expect(opened).toEqual(['b d']);
    failing.pop();
    await job.run(new AbortController().signal);
    expect(opened).toEqual(['b d', 'a d']);
  });
});
