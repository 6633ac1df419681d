import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import {
  type AdmissionLimits,
  capacityMib,
  countedAtMostMib,
  type HostRoom,
  missingMib,
  type NotYet,
  startsMore,
  type Taken,
  toStop,
  turnFor,
  WHY,
  whyNotYet,
} from './admission-rules.js';
import * as store from './admission.store.js';
import { sayResting } from './announcements.js';
import { type Lease, LeaseLost } from './work.js';

export type { AdmissionLimits, HostRoom } from './admission-rules.js';

export interface AdmissionOptions {
  db: Kysely<Schema>;
  bus: Bus;
  /** What the host has now. */
  host: () => Promise<HostRoom>;
  limits: AdmissionLimits;
  /** How much one of the pool takes. */
  poolMib: () => Promise<number>;
}

/** That one gets the room it waits for, or that one that nobody uses gives its room back. */
type Decided = { id: string; grantMib: number } | { id: string; isPool: boolean };

/** What the database says of the host's room. */
type Room = Awaited<ReturnType<typeof store.readTakenAcrossTenants>>;

/** So many are looked at to make room for one. */
const IDLE_LOOKED_AT = 200;

/**
 * Who may have memory of the host, and who has to wait for it. All of it is decided in the database, one decision at a time, whichever process asks; who
 * waits holds nothing and nobody, and is looked at again when it is its turn.
 */
export class Admission {
  readonly #options: AdmissionOptions;
  #isWaited = true;

  constructor(options: AdmissionOptions) {
    this.#options = options;
  }

  /** Whether somebody may be waiting, as far as this process knows: then it is worth a look whenever something has changed. */
  get isWaited(): boolean {
    return this.#isWaited;
  }

  /** Room for what the lease is on, at once where nobody waits and the host has it; else a place in the queue. Answers why it has to wait. */
  async ask(lease: Lease, wantMib: number): Promise<string | undefined> {
    const host = await this.#options.host();
    const notYet = await this.#decide(async (trx) => {
      const why = await this.#whyWait(trx, lease.userId ?? store.POOL, wantMib, host);
      if (why === undefined) {
        if (!(await store.takeRoomAcrossTenants(trx, lease, wantMib))) throw new LeaseLost(lease.deploymentId);
        return undefined;
      }
      const turn = lease.userId === null ? undefined : turnFor(...(await this.#turns(trx, lease.userId)));
      await store.queueAcrossTenants(trx, lease, turn, wantMib);
      return why;
    });
    if (notYet !== undefined) this.#isWaited = true;
    return notYet && WHY[notYet];
  }

  /** Lets those start who wait, each in its turn, as far as there is room; makes room for the first one where what nobody uses takes it. */
  async admit(): Promise<void> {
    const { db, bus, limits } = this.#options;
    this.#isWaited = (await store.readQueueAcrossTenants(db, 1)).length > 0;
    if (!this.#isWaited) return;
    const host = await this.#options.host();
    const touched = await this.#decide(async (trx) => {
      const taken = await this.#taken(trx, host);
      const decided: Decided[] = [];
      for (const { id, user, wantMib } of await store.readQueueAcrossTenants(trx, limits.startsAtOnce, this.#atShare(taken))) {
        const why = whyNotYet(wantMib, seenBy(user, taken), host, limits);
        // Its user has a start less than the others by now: it is their turn.
        if (why === 'share') continue;
        if (why === 'memory') decided.push(...(await this.#whomToStop(trx, wantMib, taken, host)));
        if (why !== undefined) break;
        decided.push({ id, grantMib: wantMib });
        taken.committedMib += Math.min(wantMib, countedAtMostMib(host, limits));
        taken.startingOf.set(user, (taken.startingOf.get(user) ?? 0) + 1);
      }
      return this.#write(trx, decided);
    });
    for (const id of touched) bus.publish('deployment', id);
  }

  /** Whether the pool may take more: never what somebody waits for, nor the last there is. */
  async hasRoomForPool(): Promise<boolean> {
    const { db, limits, poolMib } = this.#options;
    const host = await this.#options.host();
    if (await store.isWaitedAcrossTenants(db)) return false;
    const taken = await store.readTakenAcrossTenants(db, countedAtMostMib(host, limits));
    // Half of what there is stays free for those who come with a wish of their own.
    const spare = { ...seenBy(store.POOL, taken), committedMib: taken.committedMib + capacityMib(host, limits) / 2 };
    return whyNotYet(await poolMib(), spare, host, limits) === undefined;
  }

  async #whyWait(trx: Transaction<Schema>, user: string, wantMib: number, host: HostRoom): Promise<NotYet | undefined> {
    const taken = await this.#taken(trx, host);
    const why = whyNotYet(wantMib, seenBy(user, taken), host, this.#options.limits);
    if (why !== undefined) return why;
    return (await store.isWaitedAcrossTenants(trx, this.#atShare(taken))) ? 'turn' : undefined;
  }

  /** The users of whom nothing more may start as yet: they wait, and nobody waits for them. */
  #atShare(taken: Room): string[] {
    return [...taken.startingOf.keys()].filter((user) => !startsMore(seenBy(user, taken), this.#options.limits));
  }

  async #turns(trx: Transaction<Schema>, userId: string): Promise<Parameters<typeof turnFor>> {
    const { ofUser, first } = await store.readTurnsAcrossTenants(trx, userId);
    return [ofUser, first];
  }

  #taken(trx: Transaction<Schema>, host: HostRoom): Promise<Room> {
    return store.readTakenAcrossTenants(trx, countedAtMostMib(host, this.#options.limits));
  }

  /** What is paused and what is the pool's, as far as it takes. */
  async #whomToStop(trx: Transaction<Schema>, wantMib: number, taken: Room, host: HostRoom): Promise<Decided[]> {
    const { limits } = this.#options;
    const atMost = countedAtMostMib(host, limits);
    // Where it is the memory in use that is missing, nobody knows how much each of them gives back: one at a time then.
    const missing = missingMib(wantMib, taken, host, limits) || 1;
    const stillMissing = missing - taken.leavingMib;
    if (stillMissing <= 0) return [];
    return toStop(stillMissing, await store.readIdleAcrossTenants(trx, atMost, IDLE_LOOKED_AT));
  }

  /** In the order of ids, as everybody takes deployments who changes several. Answers which. */
  async #write(trx: Transaction<Schema>, decided: readonly Decided[]): Promise<string[]> {
    const inOrder = decided.toSorted((a, b) => (a.id < b.id ? -1 : 1));
    const stopped = [];
    for (const one of inOrder) {
      if ('grantMib' in one) await store.grantAcrossTenants(trx, one.id, one.grantMib);
      else stopped.push((await store.stopIdleAcrossTenants(trx, one)) ?? []);
    }
    await sayResting(trx, stopped.flat(), 'room');
    return inOrder.map(({ id }) => id);
  }

  #decide<T>(decide: (trx: Transaction<Schema>) => Promise<T>): Promise<T> {
    return this.#options.db.transaction().execute(async (trx) => {
      await store.lockAcrossTenants(trx);
      return decide(trx);
    });
  }
}

/** What is taken, as it counts for one of that user's. */
function seenBy(user: string, { committedMib, startingOf }: Room): Taken {
  const starting = [...startingOf.values()].reduce((sum, n) => sum + n, 0);
  return { committedMib, starting, ownStarting: startingOf.get(user) ?? 0 };
}
