import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { changeSaying } from '../../events/outbox.js';
import { sayResting, sayWoken, type WakeCause, wokenEvent } from './announcements.js';
import * as store from './deployments.store.js';

/** Deployments that nobody uses, and those of them that somebody uses again. What changes is an event of their users, in the same transaction. */
export class Rest {
  readonly #db: Kysely<Schema>;

  constructor(db: Kysely<Schema>) {
    this.#db = db;
  }

  /** Answers whether it rested. */
  wake(userId: string, deploymentId: string, cause: WakeCause): Promise<boolean> {
    const event = wokenEvent(deploymentId, cause);
    return changeSaying(this.#db, userId, event, (db) => store.wakeResting(db, userId, deploymentId));
  }

  /** Puts off the rest of those that are in use; answers those that rested and are to wake. */
  async noteUse(deploymentIds: string[]): Promise<string[]> {
    if (deploymentIds.length === 0) return [];
    return this.#db.transaction().execute(async (trx) => {
      const woken = await store.noteUseAcrossTenants(trx, deploymentIds);
      await sayWoken(trx, woken, 'busy');
      return woken.map(({ id }) => id);
    });
  }

  /** Answers those that rest now, or deeper. */
  async idle(pausedS: number): Promise<string[]> {
    return this.#db.transaction().execute(async (trx) => {
      const rested = await store.restIdleAcrossTenants(trx, pausedS);
      await sayResting(trx, rested, 'idle');
      return rested.map(({ id }) => id);
    });
  }
}
