import { setMaxListeners } from 'node:events';
import { messageOf } from './errors.js';
import type { Log } from './log.js';
import { Loop } from './loop.js';

/** Where something is sent, and whose it is. */
export interface Target {
  id: string;
  user_id: string;
}

/** Who works on a target; every write names it, so that a process that lost it changes nothing. */
export interface Lease {
  id: string;
  processId: string;
}

/** Which targets to take. */
export interface Claim {
  processId: string;
  leaseS: number;
  atMost: number;
  perUser: number;
  /** Users of whom something is new; undefined = look at all. */
  of: string[] | undefined;
  /** Users that have as many at once as one may. */
  without: string[];
}

/** What sends to targets of one kind. What is to be sent, and when, is in its tables. */
export interface Carrier<T extends Target> {
  /** What such a target is called, in the log. */
  readonly kind: string;
  /** Targets that one process works on at once. */
  readonly atOnce: number;
  /** Makes of what is new what is to be sent, before targets are taken. */
  prepare?(of: string[] | undefined, signal: AbortSignal): Promise<void>;
  /** Takes targets that have something to send. Those that another process takes are passed over. */
  claim(claim: Claim): Promise<T[]>;
  /** Keeps the lease for as long again, and answers the target as it is; undefined where it is lost, or nothing is to be sent there any more. */
  renew(userId: string, lease: Lease, leaseS: number): Promise<T | undefined>;
  release(userId: string, lease: Lease): Promise<void>;
  /** What the user's secrets are sealed with; undefined where the user is gone. */
  dataKeyOf(userId: string): Promise<Buffer | undefined>;
  /** Makes the next attempt, and writes down what came of it if the lease still holds then. Answers whether there was something to send. */
  sendNext(target: T, dataKey: Buffer, lease: Lease, signal: AbortSignal): Promise<boolean>;
}

export interface DispatchOptions {
  /** Says of whom something is new; answers the function that ends that. */
  bus: { subscribe(topic: 'event', hear: (userId: string) => void): () => void };
  log: Log;
  processId: string;
  /** How often all are looked at, where that is not to be as usual. */
  everyMs?: number | undefined;
}

/** A lease outlives the longest attempt by far, and is renewed at each. */
const LEASE_S = 60;
/** Targets of one user at once: one whose receiver is slow keeps its own user waiting. */
const PER_USER = 4;
/** Attempts before others have their turn. */
const IN_A_ROW = 20;
/** News that come close together are looked at together: somebody waits for what they are news of, and nobody for these words of it. */
const GATHER_MS = 50;

/**
 * Hears of whom something is new, takes what is due, and has it sent: at least once. Whichever process holds a target's lease sends there, so that
 * a process that dies leaves nothing undone.
 */
export class Dispatch<T extends Target> {
  readonly #carrier: Carrier<T>;
  readonly #options: DispatchOptions;
  readonly #loop: Loop;
  readonly #stop = new AbortController();
  readonly #running = new Map<string, { userId: string; done: Promise<void> }>();
  readonly #everyMs: number;
  #news = new Set<string>();
  #lookedAtAllMs = -Infinity;
  #unsubscribe = (): void => {};

  constructor(carrier: Carrier<T>, options: DispatchOptions) {
    this.#carrier = carrier;
    this.#options = options;
    this.#everyMs = options.everyMs ?? 5_000;
    setMaxListeners(0, this.#stop.signal);
    const name = `send to ${carrier.kind}s`;
    this.#loop = new Loop({ name, everyMs: this.#everyMs, gatherMs: GATHER_MS, run: () => this.#look() }, options.log);
  }

  start(): void {
    this.#unsubscribe = this.#options.bus.subscribe('event', (userId) => this.hint(userId));
    this.#loop.start();
  }

  /** Ends attempts in progress: they are made again, here or elsewhere. */
  async stop(): Promise<void> {
    this.#unsubscribe();
    this.#stop.abort(new Error('Berth is ending'));
    await this.#loop.stop();
    await Promise.all([...this.#running.values()].map(({ done }) => done));
  }

  /** Something of that user's is to be looked at. */
  hint(userId: string): void {
    this.#news.add(userId);
    this.#loop.wake();
  }

  async #look(): Promise<void> {
    const now = performance.now();
    const all = now - this.#lookedAtAllMs >= this.#everyMs * 0.9;
    const news = [...this.#news];
    this.#news = new Set();
    if (all) this.#lookedAtAllMs = now;
    if (!all && news.length === 0) return;
    const of = all ? undefined : news;
    await this.#carrier.prepare?.(of, this.#stop.signal);
    await this.#claim(of);
  }

  async #claim(of: string[] | undefined): Promise<void> {
    const atMost = this.#carrier.atOnce - this.#running.size;
    if (atMost <= 0 || this.#stop.signal.aborted) return;
    const { processId } = this.#options;
    const without = this.#busyUsers();
    const claim = { processId, leaseS: LEASE_S, atMost, perUser: PER_USER, of, without };
    for (const target of await this.#carrier.claim(claim)) this.#begin(target);
  }

  #busyUsers(): string[] {
    const counts = new Map<string, number>();
    for (const { userId } of this.#running.values()) counts.set(userId, (counts.get(userId) ?? 0) + 1);
    return [...counts].filter(([, count]) => count >= PER_USER).map(([userId]) => userId);
  }

  #begin({ id, user_id: userId }: T): void {
    if (this.#running.has(id)) return;
    const done = this.#run(id, userId)
      .catch((error: unknown) => {
        const { kind } = this.#carrier;
        if (!this.#stop.signal.aborted)
          this.#options.log.error({ [kind]: id, err: error }, `a ${kind} could not be served: ${messageOf(error)}`);
      })
      .finally(() => {
        this.#running.delete(id);
        // What came meanwhile, and whoever waited for a place.
        if (!this.#stop.signal.aborted) this.hint(userId);
      });
    this.#running.set(id, { userId, done });
  }

  async #run(id: string, userId: string): Promise<void> {
    const lease = { id, processId: this.#options.processId };
    const { signal } = this.#stop;
    try {
      const dataKey = await this.#carrier.dataKeyOf(userId);
      for (let sent = 0; dataKey && sent < IN_A_ROW && !signal.aborted; sent++) {
        const target = await this.#carrier.renew(userId, lease, LEASE_S);
        if (!target || !(await this.#carrier.sendNext(target, dataKey, lease, signal))) return;
      }
    } finally {
      await this.#carrier.release(userId, lease);
    }
  }
}
