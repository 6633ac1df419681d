import type { DeploymentWork } from '../domains/deployments/work.js';
import type { Log } from '../lib/log.js';
import type { LinkHost } from '../link/host.js';
import type { Observed, Runtime } from '../runtime/runtime.js';

export interface SweepOptions {
  work: DeploymentWork;
  runtime: Runtime;
  links: LinkHost;
  log: Log;
  /** How long an instance that nobody wished for is left alone. */
  orphanGraceMs: number;
  now: () => number;
}

/** Volumes hold what agents made, so one that nobody wishes for waits a day. */
const VOLUME_GRACE_MS = 86_400_000;

/**
 * Looks at everything there is, where the pass looks only at what is due: finds instances that died unseen, containers and folders that
 * no row knows. It touches nothing without this installation's labels, and nothing younger than the grace.
 */
export class Sweep {
  readonly #options: SweepOptions;
  /** When each orphan was first seen, by name. */
  readonly #firstSeen = new Map<string, number>();

  constructor(options: SweepOptions) {
    this.#options = options;
  }

  async run(): Promise<void> {
    const { runtime, work } = this.#options;
    // The engine first, the rows second: whatever the engine shows had its row before it.
    const { instances, volumes } = await runtime.list();
    const live = await work.liveInstances();
    const liveIds = new Set(live.map((instance) => instance.id));
    const running = new Set(instances.filter((one) => one.state === 'running' || one.state === 'paused').map((one) => one.instanceId));
    await work.lookAgain([...new Set(live.filter((one) => one.started && !running.has(one.id)).map((one) => one.deploymentId))]);
    await this.#removeOrphans(instances.filter((one) => !liveIds.has(one.instanceId)));
    await this.#removeFolders(liveIds);
    await this.#removeVolumes(volumes);
  }

  async #removeOrphans(orphans: Observed[]): Promise<void> {
    const { runtime, log, orphanGraceMs } = this.#options;
    for (const orphan of orphans) {
      if (!this.#olderThan(`instance ${orphan.name}`, orphanGraceMs)) continue;
      log.warn({ instance: orphan.instanceId, name: orphan.name }, 'removing an instance that no deployment wishes for');
      await runtime.remove(orphan.name);
      this.#firstSeen.delete(`instance ${orphan.name}`);
    }
    this.#forgetExcept('instance ', new Set(orphans.map((one) => `instance ${one.name}`)));
  }

  async #removeFolders(liveIds: Set<string>): Promise<void> {
    for (const id of await this.#options.links.list()) {
      if (liveIds.has(id) || !this.#olderThan(`folder ${id}`, this.#options.orphanGraceMs)) continue;
      await this.#options.links.remove(id);
      this.#firstSeen.delete(`folder ${id}`);
    }
  }

  async #removeVolumes(volumes: { name: string }[]): Promise<void> {
    const wished = await this.#options.work.volumes();
    const orphans = volumes.filter((volume) => !wished.has(volume.name));
    for (const volume of orphans) {
      if (!this.#olderThan(`volume ${volume.name}`, VOLUME_GRACE_MS)) continue;
      this.#options.log.warn({ volume: volume.name }, 'removing a volume that no deployment wishes for');
      await this.#options.runtime.removeVolume(volume.name);
      this.#firstSeen.delete(`volume ${volume.name}`);
    }
    this.#forgetExcept('volume ', new Set(orphans.map((volume) => `volume ${volume.name}`)));
  }

  #olderThan(key: string, graceMs: number): boolean {
    const now = this.#options.now();
    const first = this.#firstSeen.get(key) ?? now;
    this.#firstSeen.set(key, first);
    return now - first >= graceMs;
  }

  #forgetExcept(prefix: string, keep: Set<string>): void {
    for (const key of this.#firstSeen.keys()) if (key.startsWith(prefix) && !keep.has(key)) this.#firstSeen.delete(key);
  }
}
