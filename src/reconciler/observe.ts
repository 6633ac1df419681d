import type { DeploymentWork, LiveInstance } from '../domains/deployments/work.js';
import { messageOf } from '../lib/errors.js';
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

/** A link that is lost comes back within this by itself; the reconciler is told when one goes, but not of those that were away when Berth began. */
const UNLINKED_GRACE_MS = 5_000;

/** Volumes hold what agents made, so one that nobody wishes for waits a day. */
const VOLUME_GRACE_MS = 86_400_000;

/**
 * Looks at everything there is, where the pass looks only at what is due: finds instances that died, were paused or lost their link unseen,
 * containers and folders that no row knows. What cannot be removed is tried again next time and hinders nothing else. It touches nothing without this installation's labels, and nothing younger than the grace.
 */
export class Sweep {
  readonly #options: SweepOptions;
  /** When each orphan was first seen, by name. */
  readonly #firstSeen = new Map<string, number>();

  constructor(options: SweepOptions) {
    this.#options = options;
  }

  async run(): Promise<void> {
    const { runtime, work, links } = this.#options;
    // The engine and the folders first, the rows second: whatever they show had its row before it.
    const { instances, volumes } = await runtime.list();
    const folders = await links.list();
    const live = await work.liveInstances();
    const liveIds = new Set(live.map((instance) => instance.id));
    const running = new Set(instances.filter((one) => one.state === 'running').map((one) => one.instanceId));
    const started = live.filter((one) => one.started);
    const unlinked = this.#unlinked(started.filter((one) => !one.rests && running.has(one.id)));
    // Died, or was paused or started by somebody else.
    const strayed = started.filter((one) => one.rests === running.has(one.id));
    await work.lookAgain([...new Set([...strayed, ...unlinked].map((one) => one.deploymentId))]);
    await this.#removeOrphans(instances.filter((one) => !liveIds.has(one.instanceId)));
    await this.#removeFolders(folders.filter((id) => !liveIds.has(id)));
    await this.#removeVolumes(volumes);
    await work.pruneEnded();
  }

  #unlinked(running: LiveInstance[]): LiveInstance[] {
    const unlinked = running.filter((one) => this.#options.links.get(one.id) === undefined);
    this.#forgetExcept('link ', new Set(unlinked.map((one) => `link ${one.id}`)));
    return unlinked.filter((one) => this.#olderThan(`link ${one.id}`, UNLINKED_GRACE_MS));
  }

  async #removeOrphans(orphans: Observed[]): Promise<void> {
    const { runtime, log, orphanGraceMs } = this.#options;
    for (const orphan of orphans) {
      if (!this.#olderThan(`instance ${orphan.name}`, orphanGraceMs)) continue;
      log.warn({ instance: orphan.instanceId, name: orphan.name }, 'removing an instance that no deployment wishes for');
      await this.#try(`the instance ${orphan.name}`, () => runtime.remove(orphan.name));
    }
    this.#forgetExcept('instance ', new Set(orphans.map((one) => `instance ${one.name}`)));
  }

  async #removeFolders(orphans: string[]): Promise<void> {
    for (const id of orphans) {
      if (!this.#olderThan(`folder ${id}`, this.#options.orphanGraceMs)) continue;
      await this.#try(`the folder of ${id}`, () => this.#options.links.remove(id));
    }
    this.#forgetExcept('folder ', new Set(orphans.map((id) => `folder ${id}`)));
  }

  async #removeVolumes(volumes: { name: string }[]): Promise<void> {
    const wished = await this.#options.work.volumes();
    const orphans = volumes.filter((volume) => !wished.has(volume.name));
    for (const volume of orphans) {
      if (!this.#olderThan(`volume ${volume.name}`, VOLUME_GRACE_MS)) continue;
      this.#options.log.warn({ volume: volume.name }, 'removing a volume that no deployment wishes for');
      await this.#try(`the volume ${volume.name}`, () => this.#options.runtime.removeVolume(volume.name));
    }
    this.#forgetExcept('volume ', new Set(orphans.map((volume) => `volume ${volume.name}`)));
  }

  async #try(what: string, remove: () => Promise<void>): Promise<void> {
    try {
      await remove();
    } catch (error) {
      this.#options.log.error({ err: error }, `cannot remove ${what}: ${messageOf(error)}`);
    }
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
