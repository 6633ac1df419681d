import path from 'node:path';
import { AppError } from '../lib/errors.js';
import type { Log } from '../lib/log.js';
import { type Meters, NO_METERS } from '../lib/meters.js';
import {
  checkLinkDir,
  folderOf,
  listFolders,
  makeFolder,
  makeParent,
  removeFolder,
  removeStaleSockets,
  socketPathOf,
  writeTokenFile,
} from './folder.js';
import { DEFAULT_LIMITS, type LinkLimits } from './limits.js';
import type { InstanceSideHandler, Link, LinkAbuse, LinkIdentity, LinkListener } from './link.js';
import type { LinkConnection } from './connection.js';
import { type Egress, InstanceListener } from './listener.js';

export interface LinkHostOptions {
  /** Holds a folder per instance; shared by all Berth processes of a host. */
  dir: string;
  /** Names this process's sockets; unique among the processes that share `dir`. */
  processId: string;
  log: Log;
  handler: InstanceSideHandler;
  /** The instances' way out; without it CONNECT and absolute-form requests are answered 403. */
  egress?: Egress;
  onUp?(identity: LinkIdentity, link: Link): void;
  onDown?(identity: LinkIdentity, reason: string): void;
  onAbuse?(abuse: LinkAbuse): void;
  limits?: Partial<LinkLimits>;
  meters?: Meters;
}

interface Waiter {
  resolve(link: Link): void;
  reject(error: unknown): void;
}

/** The instance side of this process: a socket per instance, the registry of live links, and the watch over them. */
export class LinkHost {
  readonly #options: LinkHostOptions;
  readonly #limits: LinkLimits;
  readonly #log: Log;
  readonly #noteCut: () => void;
  readonly #listeners = new Map<string, InstanceListener>();
  readonly #opening = new Map<string, Promise<unknown>>();
  readonly #waiters = new Map<string, Set<Waiter>>();
  readonly #byDeployment = new Map<string, LinkConnection[]>();
  #parent: Promise<void> | undefined;
  #watch: NodeJS.Timeout | undefined;
  #lastBeatMs = 0;
  #isShutDown = false;

  constructor(options: LinkHostOptions) {
    checkLinkDir(options.dir, options.processId);
    this.#options = { ...options, dir: path.resolve(options.dir) };
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.#log = options.log;
    const help = 'Links that were cut for what they did.';
    const count = (options.meters ?? NO_METERS).counter({ name: 'berth_link_cuts_total', help });
    this.#noteCut = () => count({});
  }

  /**
   * Listens for one instance. Again with the same instance: takes the (maybe new) token digest and changes nothing else; with
   * another owner: cuts its connections, and it dials anew.
   */
  open(identity: LinkIdentity, tokenSha256Hex: string): Promise<LinkListener> {
    return this.#oneAtATime(identity.instanceId, async () => {
      if (this.#isShutDown) throw new AppError('unavailable', 'this process is stopping');
      const dir = await this.#makeFolder(identity.instanceId);
      const existing = this.#listeners.get(identity.instanceId);
      if (existing && isUnowned(existing.identity, identity)) existing.assign(identity.userId);
      if (existing && isSame(existing.identity, identity)) {
        existing.setToken(tokenSha256Hex);
      } else {
        await existing?.close('the instance has another owner');
        await this.#listen(identity, dir, tokenSha256Hex);
      }
      return { ...identity, dir };
    });
  }

  /** The instance was nobody's and is that user's from now on. Its connections stay. */
  assign(instanceId: string, userId: string): void {
    const listener = this.#listeners.get(instanceId);
    if (listener?.identity.userId === '') listener.assign(userId);
  }

  /** Puts the token where the instance reads it, whole or not at all. */
  async writeToken(instanceId: string, token: string): Promise<void> {
    await writeTokenFile(await this.#makeFolder(instanceId), token);
  }

  /** Stops listening for an instance and cuts all its connections. */
  close(instanceId: string, reason = 'closed by Berth'): Promise<void> {
    return this.#oneAtATime(instanceId, async () => {
      const listener = this.#listeners.get(instanceId);
      this.#listeners.delete(instanceId);
      this.#failWaiters(instanceId, new AppError('unavailable', `the link was closed: ${reason}`));
      await listener?.close(reason);
    });
  }

  /** Closes, and deletes the instance's folder. */
  async remove(instanceId: string): Promise<void> {
    await this.close(instanceId, 'the instance was removed');
    this.#options.egress?.forget(instanceId);
    await removeFolder(this.#options.dir, instanceId);
  }

  /** The instances that have a folder on disk, whoever made it. */
  list(): Promise<string[]> {
    return listFolders(this.#options.dir);
  }

  /** The folder to mount at /run/berth of an instance, whether it exists yet or not. */
  folderOf(instanceId: string): string {
    return folderOf(this.#options.dir, instanceId);
  }

  /** The live link of an instance, or the newest of a deployment. */
  get(id: string): Link | undefined {
    return this.#listeners.get(id)?.link ?? this.#byDeployment.get(id)?.findLast((link) => !link.closed);
  }

  /** All live links. */
  links(): Link[] {
    return [...this.#listeners.values()].flatMap((listener) => listener.link ?? []);
  }

  /** The instance's link as soon as it is up; rejects when the signal aborts or the instance is closed. */
  waitFor(instanceId: string, signal: AbortSignal): Promise<Link> {
    const link = this.#listeners.get(instanceId)?.link;
    if (link) return Promise.resolve(link);
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason);
      const waiters = this.#waiters.get(instanceId) ?? new Set();
      this.#waiters.set(instanceId, waiters);
      const leave = () => {
        signal.removeEventListener('abort', onAbort);
        waiters.delete(waiter);
        if (waiters.size === 0 && this.#waiters.get(instanceId) === waiters) this.#waiters.delete(instanceId);
      };
      const onAbort = () => waiter.reject(signal.reason);
      const waiter: Waiter = {
        resolve: (found) => (leave(), resolve(found)),
        reject: (error) => (leave(), reject(error)),
      };
      waiters.add(waiter);
      signal.addEventListener('abort', onAbort, { once: true });
    });
  }

  /** Deployments that somebody used over this process's links since then (by `performance.now()`), or uses now. */
  inUse(sinceMs: number): string[] {
    const links = [...this.#listeners.values()].flatMap((listener) => listener.link ?? []);
    return [...new Set(links.filter((link) => link.isInUse(sinceMs)).map((link) => link.deploymentId))];
  }

  /** Whether a request that is not upkeep is in flight to the instance from this process. */
  isInUse(instanceId: string): boolean {
    return this.#listeners.get(instanceId)?.link?.isInUse(Infinity) ?? false;
  }

  /** Cuts what the instance has open to the internet, so that a stricter policy counts at once. */
  cutTunnels(instanceId: string): void {
    this.#listeners.get(instanceId)?.cutTunnels();
  }

  /** The instance is about to be frozen: it is not asked for signs of life until `resumeWatch`. */
  pauseWatch(instanceId: string): void {
    this.#listeners.get(instanceId)?.pauseWatch();
  }

  /** The instance runs again: a ping goes out at once. */
  resumeWatch(instanceId: string): void {
    this.#listeners.get(instanceId)?.resumeWatch();
  }

  /** Cuts all links and takes this process's sockets out of the folders, which stay for the other processes. */
  async shutdown(): Promise<void> {
    this.#isShutDown = true;
    clearInterval(this.#watch);
    const ids = new Set([...this.#listeners.keys(), ...this.#opening.keys(), ...this.#waiters.keys()]);
    await Promise.all([...ids].map((id) => this.close(id, 'this process is stopping')));
  }

  async #listen(identity: LinkIdentity, folder: string, tokenSha256: string): Promise<void> {
    const listener = new InstanceListener({
      identity,
      socketPath: socketPathOf(this.#options.dir, identity.instanceId, this.#options.processId),
      tokenSha256,
      limits: this.#limits,
      log: this.#log,
      handler: this.#options.handler,
      egress: this.#options.egress,
      onUp: (link) => this.#onUp(identity, link),
      onDown: (link, reason) => this.#onDown(identity, link, reason),
      onAbuse: (reason) => {
        this.#noteCut();
        this.#options.onAbuse?.({ identity, reason });
      },
    });
    const stale = await removeStaleSockets(folder);
    if (stale.length > 0) this.#log.info({ instanceId: identity.instanceId, stale }, 'removed sockets of dead processes');
    await listener.listen();
    this.#listeners.set(identity.instanceId, listener);
    this.#startWatch();
  }

  async #makeFolder(instanceId: string): Promise<string> {
    const { dir } = this.#options;
    // Whose it was before may have left it open to others.
    this.#parent ??= makeParent(dir);
    await this.#parent.catch((error: unknown) => {
      this.#parent = undefined;
      throw error;
    });
    return makeFolder(dir, instanceId);
  }

  #onUp(identity: LinkIdentity, link: LinkConnection): void {
    const links = this.#byDeployment.get(identity.deploymentId) ?? [];
    this.#byDeployment.set(identity.deploymentId, [...links, link]);
    this.#options.onUp?.(identity, link);
    for (const waiter of this.#waiters.get(identity.instanceId) ?? []) waiter.resolve(link);
  }

  #onDown(identity: LinkIdentity, link: LinkConnection, reason: string): void {
    const left = this.#byDeployment.get(identity.deploymentId)?.filter((other) => other !== link) ?? [];
    if (left.length > 0) this.#byDeployment.set(identity.deploymentId, left);
    else this.#byDeployment.delete(identity.deploymentId);
    this.#options.onDown?.(identity, reason);
  }

  #failWaiters(instanceId: string, error: AppError): void {
    for (const waiter of this.#waiters.get(instanceId) ?? []) waiter.reject(error);
  }

  #startWatch(): void {
    if (this.#watch) return;
    this.#lastBeatMs = performance.now();
    this.#watch = setInterval(() => this.#beat(), this.#limits.watchEveryMs).unref();
  }

  #beat(): void {
    const nowMs = performance.now();
    const lateMs = Math.max(0, nowMs - this.#lastBeatMs - this.#limits.watchEveryMs);
    this.#lastBeatMs = nowMs;
    for (const listener of this.#listeners.values()) listener.watch(nowMs, lateMs);
  }

  /** Calls for one instance follow one another, whatever they do. */
  #oneAtATime<T>(instanceId: string, work: () => Promise<T>): Promise<T> {
    const before = this.#opening.get(instanceId) ?? Promise.resolve();
    const result = before.then(work, work);
    const settled = result.then(
      () => {},
      () => {},
    );
    this.#opening.set(instanceId, settled);
    void settled.then(() => {
      if (this.#opening.get(instanceId) === settled) this.#opening.delete(instanceId);
    });
    return result;
  }
}

/** Whether it is the same instance, from before it was somebody's. */
function isUnowned(before: LinkIdentity, now: LinkIdentity): boolean {
  return before.userId === '' && before.instanceId === now.instanceId && before.deploymentId === now.deploymentId;
}

function isSame(a: LinkIdentity, b: LinkIdentity): boolean {
  return a.instanceId === b.instanceId && a.deploymentId === b.deploymentId && a.userId === b.userId;
}
