import type { DeploymentWork } from '../domains/deployments/work.js';
import type { Job } from '../lib/loop.js';
import type { LinkHost } from '../link/host.js';

/**
 * Listens for every instance that lives, whichever process made it, so that any process can serve any instance. Runs at the start, when the bus
 * says that an instance changed, and now and then.
 */
export function linkSyncJob({ work, links }: { work: DeploymentWork; links: LinkHost }): Job {
  let open = new Set<string>();
  return {
    name: 'listen for instances',
    everyMs: 10_000,
    async run() {
      const live = (await work.liveInstances()).filter((instance) => instance.tokenDigest !== '');
      for (const { id, deploymentId, userId, tokenDigest } of live) {
        await links.open({ instanceId: id, deploymentId, userId }, tokenDigest);
      }
      const now = new Set(live.map((instance) => instance.id));
      for (const id of open) if (!now.has(id)) await links.close(id, 'the instance has ended');
      open = now;
    },
  };
}
