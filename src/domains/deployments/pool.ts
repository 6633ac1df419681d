import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { newId } from '../../lib/ids.js';
import * as store from './pool.store.js';

export interface PoolOptions {
  db: Kysely<Schema>;
  bus: Bus;
  /** A uid that no other deployment has. It holds a lock until the transaction ends, so that two processes do not both make the last one. */
  takeUid: (trx: Transaction<Schema>) => Promise<number>;
  /** How many are kept ready. */
  size: number;
  /** Whether the host has memory for one more. */
  hasRoom: () => Promise<boolean>;
}

/** More at once would take the engine from those who wait for a container of their own. */
const ON_THE_WAY_AT_MOST = 2;

/** Deployments that are nobody's yet, each with an instance that is up and knows no agent: a new one's first start is a claim. */
export class Pool {
  readonly #options: PoolOptions;

  constructor(options: PoolOptions) {
    this.#options = options;
  }

  /** Makes what is missing, as far as there is room and few are on their way, and lets go of what is too many. */
  async fill(): Promise<void> {
    const { db, bus, size, hasRoom } = this.#options;
    for (;;) {
      const { all, onTheWay } = await store.countAcrossTenants(db);
      if (all > size) for (const id of await store.retireAcrossTenants(db, all - size)) bus.publish('deployment', id);
      if (all >= size || onTheWay >= ON_THE_WAY_AT_MOST || !(await hasRoom())) return;
      const made = await db.transaction().execute((trx) => this.#make(trx));
      if (made === undefined) return;
      bus.publish('deployment', made);
    }
  }

  async #make(trx: Transaction<Schema>): Promise<string | undefined> {
    const uid = await this.#options.takeUid(trx);
    const { all, onTheWay } = await store.countAcrossTenants(trx);
    if (all >= this.#options.size || onTheWay >= ON_THE_WAY_AT_MOST) return undefined;
    const id = newId('dep');
    await store.insertAcrossTenants(trx, {
      id,
      uid,
      volume: `berth-${id}`,
      limits: null,
      image: null,
      reason: null,
      due_at: null,
      files_until: null,
      rest: null,
      idle_at: null,
      lease_owner: null,
      lease_until: null,
    });
    return id;
  }
}
