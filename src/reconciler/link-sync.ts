import type { DeploymentWork, LiveInstance } from '../domains/deployments/work.js';
import type { Bus } from '../events/bus.js';
import { messageOf } from '../lib/errors.js';
import type { Log } from '../lib/log.js';
import { type Job, Loop } from '../lib/loop.js';
import type { LinkHost } from '../link/host.js';

export interface LinkSyncOptions {
  work: DeploymentWork;
  links: LinkHost;
  bus: Bus;
  log: Log;
  /** Told once the instance is no more. */
  onEnded(instanceId: string): void;
  /** How often all are looked at, whatever the bus says. */
  allEveryMs?: number;
}

interface Known {
  deploymentId: string;
  /** That it was opened with; none where that failed. */
  digest: string | undefined;
  rests: boolean;
}

/** Sockets are opened so many at a time: all of a restart at once, and none is waited for by the others. */
const AT_ONCE = 16;

/**
 * Listens for every instance that lives, whichever process made it, so that any process can serve any instance. All are looked at when it begins,
 * whenever word of other processes may have been missed, and now and then; in between only those whose deployment the bus names, since each step of
 * each deployment brings one here.
 */
export class LinkSync implements Job {
  readonly name = 'listen for instances';
  readonly everyMs = 10_000;
  readonly gatherMs = 50;
  readonly #options: LinkSyncOptions;
  readonly #loop: Loop;
  readonly #known = new Map<string, Known>();
  readonly #byDeployment = new Map<string, Set<string>>();
  /** Deployments of which something is new. */
  #changed = new Set<string>();
  #isAllDue = true;
  #allAtMs = 0;
  #unsubscribe: (() => void)[] = [];

  constructor(options: LinkSyncOptions) {
    this.#options = options;
    this.#loop = new Loop(this, options.log);
  }

  start(): void {
    const { bus } = this.#options;
    this.#unsubscribe = [
      bus.subscribe('deployment', (id) => {
        this.#changed.add(id);
        this.#loop.wake();
      }),
      bus.onTrustLost(() => (this.#isAllDue = true)),
    ];
    this.#loop.start();
  }

  async stop(): Promise<void> {
    for (const end of this.#unsubscribe) end();
    await this.#loop.stop();
  }

  async run(): Promise<void> {
    const { work, bus, allEveryMs = 30_000 } = this.#options;
    const isAll = this.#isAllDue || performance.now() - this.#allAtMs >= allEveryMs;
    const changed = this.#changed;
    if (!isAll && changed.size === 0) return;
    this.#changed = new Set();
    // Until this run has gone well, and while the bus may miss something.
    this.#isAllDue = true;
    const live = await work.liveInstances(isAll ? undefined : [...changed]);
    await this.#openAll(live.filter((instance) => instance.tokenDigest !== ''));
    const gone = isAll ? this.#known.keys() : [...changed].flatMap((id) => [...(this.#byDeployment.get(id) ?? [])]);
    const lives = new Set(live.map(({ id }) => id));
    for (const id of [...gone].filter((one) => !lives.has(one))) await this.#forget(id);
    if (isAll) this.#allAtMs = performance.now();
    this.#isAllDue = !bus.trusted;
  }

  async #openAll(live: LiveInstance[]): Promise<void> {
    for (let from = 0; from < live.length; from += AT_ONCE)
      await Promise.all(live.slice(from, from + AT_ONCE).map((instance) => this.#open(instance)));
  }

  async #open({ id, deploymentId, userId, tokenDigest, rests }: LiveInstance): Promise<void> {
    const { links, log } = this.#options;
    const known = this.#known.get(id) ?? { deploymentId, digest: undefined, rests: false };
    this.#known.set(id, known);
    this.#byDeployment.set(deploymentId, (this.#byDeployment.get(deploymentId) ?? new Set()).add(id));
    if (known.digest !== tokenDigest) {
      known.digest = undefined;
      try {
        await links.open({ instanceId: id, deploymentId, userId }, tokenDigest);
        known.digest = tokenDigest;
      } catch (error) {
        this.#changed.add(deploymentId);
        log.error({ instance: id, err: error }, `cannot listen for an instance: ${messageOf(error)}`);
      }
    }
    if (rests === known.rests) return;
    if (rests) links.pauseWatch(id);
    else links.resumeWatch(id);
    known.rests = rests;
  }

  async #forget(id: string): Promise<void> {
    const { deploymentId } = this.#known.get(id) ?? {};
    await this.#options.links.remove(id);
    this.#known.delete(id);
    const siblings = deploymentId === undefined ? undefined : this.#byDeployment.get(deploymentId);
    siblings?.delete(id);
    if (deploymentId !== undefined && siblings?.size === 0) this.#byDeployment.delete(deploymentId);
    this.#options.onEnded(id);
  }
}
