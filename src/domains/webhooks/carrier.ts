import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { appendEvent, readEvents, type StoredEvent } from '../../events/outbox.js';
import { DEAD_AFTER_S, outcomeOf, reasonToDisable } from '../../lib/attempt.js';
import type { Carrier, Claim, Lease } from '../../lib/dispatch.js';
import { newId } from '../../lib/ids.js';
import * as deliveries from './deliveries.store.js';
import * as store from './dispatch.store.js';
import { bodyOf } from './parcel.js';
import { verdictOn } from './retry.js';
import type { Attempt, Sender } from './sender.js';
import { wants } from './wants.js';
import { readDataKey, setPosition, type WebhookRow } from './webhooks.store.js';

export interface CarrierOptions {
  db: Kysely<Schema>;
  sender: Sender;
  /** Where they are not to be as usual: waits after failed attempts, when a dead one is given up. */
  retriesS?: readonly number[] | undefined;
  disableAfterS?: number | undefined;
}

const PAGE = 200;

/** Brings events to webhooks, in order as far as a receiver that fails lets it. */
export class WebhookCarrier implements Carrier<WebhookRow> {
  readonly kind = 'webhook';
  readonly atOnce = 64;
  readonly #options: CarrierOptions;
  readonly #db: Kysely<Schema>;

  constructor(options: CarrierOptions) {
    this.#options = options;
    this.#db = options.db;
  }

  claim(claim: Claim): Promise<WebhookRow[]> {
    return store.claimAcrossTenants(this.#db, claim);
  }

  renew(userId: string, lease: Lease, leaseS: number): Promise<WebhookRow | undefined> {
    return store.renew(this.#db, userId, lease, leaseS);
  }

  release(userId: string, lease: Lease): Promise<void> {
    return store.release(this.#db, userId, lease);
  }

  dataKeyOf(userId: string): Promise<Buffer | undefined> {
    return readDataKey(this.#db, userId);
  }

  async sendNext({ user_id: userId }: WebhookRow, dataKey: Buffer, lease: Lease, signal: AbortSignal): Promise<boolean> {
    const delivery = await this.#next(userId, lease);
    // Read anew: an event that is younger than a change goes where the change says.
    const webhook = delivery && (await store.lockLeased(this.#db, userId, lease));
    if (!webhook) return false;
    const parcel = { eventId: delivery.event_id, body: delivery.body };
    const attempt = await this.#options.sender.send(webhook, dataKey, parcel, signal);
    await this.#settle(userId, lease, delivery, attempt);
    return true;
  }

  /** What is to be sent now: what is due, else the next event, unless one before it is still on its way. */
  async #next(userId: string, lease: Lease): Promise<deliveries.DeliveryRow | undefined> {
    const due = await store.nextDue(this.#db, userId, lease.id);
    if (due) return due;
    if (await store.isHeldUp(this.#db, userId, lease.id)) return undefined;
    return this.#db.transaction().execute((trx) => this.#takeEvent(trx, userId, lease));
  }

  /** Makes a delivery of the next event that the webhook wants, and moves its position there in the same transaction. */
  async #takeEvent(trx: Transaction<Schema>, userId: string, lease: Lease): Promise<deliveries.DeliveryRow | undefined> {
    const webhook = await store.lockLeased(trx, userId, lease);
    if (!webhook) return undefined;
    let position = Number(webhook.position);
    for (;;) {
      const events = await readEvents(trx, userId, position, PAGE);
      const event = events.find((one) => wants(webhook, one));
      position = (event ?? events.at(-1))?.seq ?? position;
      if (event || events.length < PAGE) {
        await setPosition(trx, userId, lease.id, position);
        return event && this.#insert(trx, webhook, event);
      }
    }
  }

  #insert(trx: Transaction<Schema>, webhook: WebhookRow, event: StoredEvent): Promise<deliveries.DeliveryRow> {
    return deliveries.insertDelivery(trx, webhook.user_id, {
      id: newId('whd'),
      webhook_id: webhook.id,
      event_id: event.id,
      type: event.type,
      body: bodyOf(event, webhook.user_id),
    });
  }

  async #settle(userId: string, lease: Lease, delivery: deliveries.DeliveryRow, attempt: Attempt): Promise<void> {
    const { retriesS, disableAfterS = DEAD_AFTER_S } = this.#options;
    const verdict = verdictOn(attempt, delivery.tries + 1, retriesS);
    const { ms, status = null, error = null, response = null } = attempt;
    await this.#db.transaction().execute(async (trx) => {
      // Whoever took the lease over makes the attempt again; this one is as if it had not been.
      if (!(await store.lockLeased(trx, userId, lease))) return;
      await deliveries.insertAttempt(trx, userId, delivery.id, { ms, status, error, response });
      await store.settleDelivery(trx, userId, delivery.id, verdict);
      const isDead = await store.noteHealth(trx, userId, lease.id, error === null, disableAfterS);
      const reason = reasonToDisable(outcomeOf(attempt), verdict, isDead);
      if (reason !== undefined) await this.#disable(trx, userId, lease.id, reason);
    });
  }

  async #disable(trx: Transaction<Schema>, userId: string, id: string, reason: string): Promise<void> {
    await store.disable(trx, userId, id, reason);
    await deliveries.failPending(trx, userId, id);
    const payload = { webhook_id: id, reason };
    await appendEvent(trx, userId, { type: 'webhook.disabled', actor: 'webhooks', requestId: null, payload });
  }
}
