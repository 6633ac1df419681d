import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { appendEvent } from '../../events/outbox.js';
import { backoffMs } from '../../lib/backoff.js';
import * as store from './replacement.store.js';
import { type Lease, type Leased, LeaseLost } from './work.js';

type Instance = NonNullable<Leased['instance']>;

/** Where it is kept which instance serves which agents. They belong to a domain above this one. */
export interface ServedAgents {
  giveAcrossTenants(
    trx: Transaction<Schema>,
    deploymentId: string,
    which: { agentIds: string[] } | { by: string | null },
    to: string | null,
    version: number,
  ): Promise<number>;
  settleAcrossTenants(trx: Transaction<Schema>, instanceId: string): Promise<void>;
}

export interface Undoing {
  why: string;
  /** Whether it is the instance's own failing, after which the next attempt waits. */
  failed: boolean;
  /** What was to be made. */
  wish: string;
}

/** As for deployments that fail. */
const BACKOFF = { firstMs: 500, maxMs: 60_000 };

/**
 * What the database says while an instance takes another one's place. Each write is one transaction under the lease, so that at any moment each
 * agent has exactly one instance that serves it.
 */
export class Replacements {
  readonly #db: Kysely<Schema>;
  readonly #bus: Bus;
  readonly #agents: ServedAgents;

  constructor({ db, bus, agents }: { db: Kysely<Schema>; bus: Bus; agents: ServedAgents }) {
    this.#db = db;
    this.#bus = bus;
    this.#agents = agents;
  }

  async beginHanding(incoming: Instance): Promise<void> {
    if (incoming.handing_at === null) await store.beginHandingAcrossTenants(this.#db, incoming.id);
  }

  /** From now on the incoming instance serves these agents. The one that did has let go of them. */
  async handOver(lease: Lease, incoming: Instance, agentIds: string[]): Promise<void> {
    await this.#write(lease, {}, async (trx) => {
      const version = await store.raiseVersionAcrossTenants(trx, lease);
      await this.#agents.giveAcrossTenants(trx, lease.deploymentId, { agentIds }, incoming.id, version);
      await store.setInstanceAcrossTenants(trx, incoming.id, { handed: true });
    });
  }

  /** The incoming instance is no more: what it served is the current one's again, and another attempt waits where it has failed. */
  async undo(lease: Lease, { deployment, incoming }: Leased, { why, failed, wish }: Undoing): Promise<void> {
    const attempts = deployment.roll_failed === wish ? deployment.roll_attempts + 1 : 1;
    const change = failed
      ? { roll_attempts: attempts, roll_failed: wish, roll_wait_ms: backoffMs(attempts, BACKOFF), reason: why }
      : {};
    await this.#write(lease, change, async (trx) => {
      if (!incoming) return;
      const version = await store.raiseVersionAcrossTenants(trx, lease);
      await this.#agents.giveAcrossTenants(trx, lease.deploymentId, { by: incoming.id }, null, version);
      await store.setInstanceAcrossTenants(trx, incoming.id, { ended: why });
      // The same failure again is no news.
      if (!failed || attempts > 1 || lease.userId === null) return;
      const payload = { deployment_id: lease.deploymentId, reason: why };
      await appendEvent(trx, lease.userId, {
        type: 'deployment.replacement_failed',
        actor: 'reconciler',
        requestId: null,
        payload,
      });
    });
    if (incoming) this.#bus.publish('instance', incoming.id);
  }

  /** The current instance is no more, and the incoming one is it. */
  async promote(lease: Lease, { deployment, instance, incoming }: Leased, why: string): Promise<void> {
    if (!incoming) return;
    const change = {
      roll_attempts: 0,
      roll_failed: null,
      roll_wait_ms: null,
      ...(deployment.roll_failed ? { reason: null } : {}),
    };
    await this.#write(lease, change, async (trx, version) => {
      if (instance) await store.setInstanceAcrossTenants(trx, instance.id, { ended: why });
      await store.setInstanceAcrossTenants(trx, incoming.id, { role: 'current' });
      const left = await this.#agents.giveAcrossTenants(trx, lease.deploymentId, { by: null }, null, version + 1);
      if (left > 0) await store.raiseVersionAcrossTenants(trx, lease);
      await this.#agents.settleAcrossTenants(trx, incoming.id);
      if (lease.userId === null) return;
      const payload = { deployment_id: lease.deploymentId, instance_id: incoming.id, reason: why };
      await appendEvent(trx, lease.userId, { type: 'deployment.replaced', actor: 'reconciler', requestId: null, payload });
    });
    if (instance) this.#bus.publish('instance', instance.id);
    this.#bus.publish('instance', incoming.id);
  }

  async #write(
    lease: Lease,
    change: Parameters<typeof store.lockLeasedAcrossTenants>[2],
    work: (trx: Transaction<Schema>, version: number) => Promise<void>,
  ): Promise<void> {
    await this.#db.transaction().execute(async (trx) => {
      const version = await store.lockLeasedAcrossTenants(trx, lease, change);
      if (version === undefined) throw new LeaseLost(lease.deploymentId);
      await work(trx, version);
    });
    this.#bus.publish('deployment', lease.deploymentId);
  }
}
