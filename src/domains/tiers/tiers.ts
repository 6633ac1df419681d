import type { Kysely, Selectable, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { AppError } from '../../lib/errors.js';
import type { TierAnswer } from './tiers.schema.js';
import * as store from './tiers.store.js';
import type { TiersTable } from './tiers.table.js';

export type Tier = Selectable<TiersTable>;

/** A process that dies between its commit and its word on the bus leaves copies behind: none is older than this. */
const KEPT_FOR_MS = 5_000;

/** The plans. Rows of the database, read often and changed seldom: kept in memory until the bus says that one changed. */
export class Tiers {
  readonly #db: Kysely<Schema>;
  readonly #bus: Bus;
  readonly #kept = new Map<string, { tier: Tier; staleAtMs: number }>();

  constructor({ db, bus }: { db: Kysely<Schema>; bus: Bus }) {
    this.#db = db;
    this.#bus = bus;
    bus.subscribe('tier', (name) => this.#kept.delete(name));
    bus.onTrustLost(() => this.#kept.clear());
  }

  async list(): Promise<TierAnswer[]> {
    return (await store.listTiersAcrossTenants(this.#db)).map(answerOf);
  }

  /** `invalid_request` naming the field when there is no such tier. */
  async get(name: string): Promise<Tier> {
    const kept = this.#fresh(name);
    if (kept) return kept;
    const tier = await store.readTierAcrossTenants(this.#db, name);
    if (!tier) throw await this.#unknown();
    if (this.#bus.trusted) this.#kept.set(name, { tier, staleAtMs: performance.now() + KEPT_FOR_MS });
    return tier;
  }

  /** Within a transaction: a tier that is not kept is read over the transaction's own connection. */
  async getIn(trx: Transaction<Schema>, name: string): Promise<Tier> {
    const tier = this.#fresh(name) ?? (await store.readTierAcrossTenants(trx, name));
    if (!tier) throw new Error(`there is no tier ${name}`);
    return tier;
  }

  #fresh(name: string): Tier | undefined {
    const kept = this.#kept.get(name);
    return kept !== undefined && kept.staleAtMs > performance.now() ? kept.tier : undefined;
  }

  async #unknown(): Promise<AppError> {
    const names = (await store.listTiersAcrossTenants(this.#db)).map((tier) => tier.name);
    return new AppError('invalid_request', 'unknown tier', {
      fields: [{ path: 'tier', message: `must be one of ${names.join(', ')}` }],
    });
  }
}

function answerOf(tier: Tier): TierAnswer {
  return {
    name: tier.name,
    limits: {
      agents: tier.max_agents,
      memory_mib: tier.memory_mib,
      cpu_millis: tier.cpu_millis,
      pids: tier.pids,
      disk_mib: tier.disk_mib,
      requests_per_minute: tier.requests_per_minute,
      tokens_per_month: tier.tokens_per_month === null ? null : Number(tier.tokens_per_month),
      idle_timeout_s: tier.idle_timeout_s,
      log_days: tier.log_days,
      log_mib: tier.log_mib,
    },
  };
}
