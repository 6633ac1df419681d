import type { DeploymentWork } from '../domains/deployments/work.js';
import { messageOf } from '../lib/errors.js';
import type { Log } from '../lib/log.js';
import type { Job } from '../lib/loop.js';
import type { LinkHost } from '../link/host.js';

export interface LinkSyncOptions {
  work: DeploymentWork;
  links: LinkHost;
  log: Log;
  /** Told once the instance is no more. */
  onEnded(instanceId: string): void;
}

/**
 * Listens for every instance that lives, whichever process made it, so that any process can serve any instance. Runs at the start, when the bus
 * says that an instance changed, and now and then. Only what is new costs anything but one query: it runs at each step of each deployment.
 */
export function linkSyncJob({ work, links, log, onEnded }: LinkSyncOptions): Job {
  /** The digest that each instance was opened with; none where that failed. */
  const open = new Map<string, string | undefined>();
  const resting = new Set<string>();
  return {
    name: 'listen for instances',
    everyMs: 10_000,
    async run() {
      const live = (await work.liveInstances()).filter((instance) => instance.tokenDigest !== '');
      for (const { id, deploymentId, userId, tokenDigest } of live) {
        if (open.get(id) === tokenDigest) continue;
        open.set(id, undefined);
        try {
          await links.open({ instanceId: id, deploymentId, userId }, tokenDigest);
          open.set(id, tokenDigest);
        } catch (error) {
          log.error({ instance: id, err: error }, `cannot listen for an instance: ${messageOf(error)}`);
        }
      }
      for (const { id, rests } of live) {
        if (rests === resting.has(id)) continue;
        if (rests) links.pauseWatch(id);
        else links.resumeWatch(id);
        if (rests) resting.add(id);
        else resting.delete(id);
      }
      const now = new Set(live.map((instance) => instance.id));
      for (const id of [...open.keys()].filter((one) => !now.has(one))) {
        await links.remove(id);
        open.delete(id);
        resting.delete(id);
        onEnded(id);
      }
    },
  };
}
