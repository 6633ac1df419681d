import type { DeploymentWork } from '../domains/deployments/work.js';
import type { Job } from '../lib/loop.js';
import type { LinkHost } from '../link/host.js';

export interface LinkSyncOptions {
  work: DeploymentWork;
  links: LinkHost;
  /** Told once the instance is no more. */
  onEnded(instanceId: string): void;
}

/**
 * Listens for every instance that lives, whichever process made it, so that any process can serve any instance. Runs at the start, when the bus
 * says that an instance changed, and now and then.
 */
export function linkSyncJob({ work, links, onEnded }: LinkSyncOptions): Job {
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
      for (const id of open) {
        if (now.has(id)) continue;
        await links.close(id, 'the instance has ended');
        onEnded(id);
      }
      open = now;
    },
  };
}
