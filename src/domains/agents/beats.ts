import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import * as store from './beats.store.js';

/** An agent whose heartbeat is to be decided, and by which wish of it. */
export type Unplanned = Awaited<ReturnType<typeof store.unplannedAcrossTenants>>[number];

/**
 * Marks the agents whose heartbeats are to be decided anew. Whatever a gateway is told of an agent marks it by itself (`touch`); what no gateway is
 * told does so here.
 */
export class AgentBeats {
  readonly #db: Kysely<Schema>;

  constructor(db: Kysely<Schema>) {
    this.#db = db;
  }

  /** Of all agents of the user, where none is named. Within the transaction of the change, after the user's lock. */
  changed(trx: Transaction<Schema>, userId: string, agentId: string | null): Promise<void> {
    return store.raiseBeatWish(trx, userId, agentId);
  }

  unplanned(limit: number): Promise<Unplanned[]> {
    return store.unplannedAcrossTenants(this.#db, limit);
  }

  /** First in the transaction that writes down what was decided; false where the agent has changed since it was looked at. */
  planned(trx: Transaction<Schema>, { id, user_id: userId, beat_wish: wish }: Unplanned): Promise<boolean> {
    return store.notePlanned(trx, userId, id, wish);
  }
}
