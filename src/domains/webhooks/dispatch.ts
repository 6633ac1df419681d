import { setMaxListeners } from 'node:events';
import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { appendEvent, readEvents, type StoredEvent } from '../../events/outbox.js';
import { newId } from '../../lib/ids.js';
import { messageOf } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import { Loop } from '../../lib/loop.js';
import * as deliveries from './deliveries.store.js';
import * as store from './dispatch.store.js';
import { bodyOf } from './parcel.js';
import { isGone, isSuccess, RETRIES_S, verdictOn } from './retry.js';
import type { Attempt, Sender } from './sender.js';
import { wants } from './wants.js';
import { readDataKey, type WebhookRow } from './webhooks.store.js';

export interface DispatchOptions {
  db: Kysely<Schema>;
  bus: Bus;
  log: Log;
  processId: string;
  sender: Sender;
  /** Where they are not to be as usual: waits after failed attempts, how often all are looked at, when a dead one is given up. */
  retriesS?: readonly number[] | undefined;
  everyMs?: number | undefined;
  disableAfterS?: number | undefined;
}

/** A lease outlives the longest attempt by far, and is renewed at each. */
const LEASE_S = 60;
/** Webhooks worked on at once by this process, and of one user: one whose receiver is slow keeps its own user waiting. */
const AT_ONCE = 64;
const PER_USER = 4;
/** Deliveries before others have their turn. */
const IN_A_ROW = 20;
const PAGE = 200;
/** News that come close together are looked at together. */
const GATHER_MS = 10;
const DISABLE_AFTER_S = 24 * 3_600;

/**
 * Brings events to webhooks: at least once, and in order as far as a receiver that fails lets it. What is to be sent, and when, is in the
 * database; whichever process holds a webhook's lease sends, so that a process that dies leaves nothing undone.
 */
export class WebhookDispatch {
  readonly #options: DispatchOptions;
  readonly #db: Kysely<Schema>;
  readonly #loop: Loop;
  readonly #stop = new AbortController();
  readonly #running = new Map<string, { userId: string; done: Promise<void> }>();
  readonly #everyMs: number;
  #news = new Set<string>();
  #gathering: NodeJS.Timeout | undefined;
  #lookedAtAllMs = -Infinity;
  #unsubscribe = (): void => {};

  constructor(options: DispatchOptions) {
    this.#options = options;
    this.#db = options.db;
    this.#everyMs = options.everyMs ?? 5_000;
    setMaxListeners(0, this.#stop.signal);
    this.#loop = new Loop({ name: 'send webhooks', everyMs: this.#everyMs, run: () => this.#claim() }, options.log);
  }

  start(): void {
    this.#unsubscribe = this.#options.bus.subscribe('event', (userId) => this.#hear(userId));
    this.#loop.start();
  }

  /** Ends attempts in progress: they are made again, here or elsewhere. */
  async stop(): Promise<void> {
    this.#unsubscribe();
    clearTimeout(this.#gathering);
    this.#stop.abort(new Error('Berth is ending'));
    await this.#loop.stop();
    await Promise.all([...this.#running.values()].map(({ done }) => done));
  }

  /** Something of that user's is to be looked at. */
  hint(userId: string): void {
    this.#hear(userId);
  }

  #hear(userId: string): void {
    this.#news.add(userId);
    this.#gathering ??= setTimeout(() => {
      this.#gathering = undefined;
      this.#loop.wake();
    }, GATHER_MS);
  }

  async #claim(): Promise<void> {
    const now = performance.now();
    const all = now - this.#lookedAtAllMs >= this.#everyMs * 0.9;
    const news = [...this.#news];
    this.#news = new Set();
    if (all) this.#lookedAtAllMs = now;
    const atMost = AT_ONCE - this.#running.size;
    if (atMost <= 0 || (!all && news.length === 0)) return;
    const claimed = await store.claimAcrossTenants(this.#db, {
      processId: this.#options.processId,
      leaseS: LEASE_S,
      atMost,
      perUser: PER_USER,
      of: all ? undefined : news,
      without: this.#busyUsers(),
    });
    for (const webhook of claimed) this.#begin(webhook);
  }

  #busyUsers(): string[] {
    const counts = new Map<string, number>();
    for (const { userId } of this.#running.values()) counts.set(userId, (counts.get(userId) ?? 0) + 1);
    return [...counts].filter(([, count]) => count >= PER_USER).map(([userId]) => userId);
  }

  #begin(webhook: WebhookRow): void {
    const { id, user_id: userId } = webhook;
    if (this.#running.has(id)) return;
    const done = this.#run(webhook)
      .catch((error: unknown) => {
        if (!this.#stop.signal.aborted)
          this.#options.log.error({ webhook: id, err: error }, `a webhook could not be served: ${messageOf(error)}`);
      })
      .finally(() => {
        this.#running.delete(id);
        // What came meanwhile, and whoever waited for a place.
        if (!this.#stop.signal.aborted) this.#hear(userId);
      });
    this.#running.set(id, { userId, done });
  }

  async #run(webhook: WebhookRow): Promise<void> {
    const lease = { webhookId: webhook.id, processId: this.#options.processId };
    try {
      const dataKey = await readDataKey(this.#db, webhook.user_id);
      for (let sent = 0; dataKey && sent < IN_A_ROW && !this.#stop.signal.aborted; sent++) {
        if (!(await store.renewAcrossTenants(this.#db, lease, LEASE_S))) return;
        const delivery = await this.#next(webhook, lease);
        if (!delivery) return;
        const current = await this.#db.transaction().execute((trx) => store.lockLeasedAcrossTenants(trx, lease));
        if (!current) return;
        const parcel = { eventId: delivery.event_id, body: delivery.body };
        const attempt = await this.#options.sender.send(current, dataKey, parcel, this.#stop.signal);
        await this.#settle(webhook.user_id, lease, delivery, attempt);
      }
    } finally {
      await store.releaseAcrossTenants(this.#db, lease);
    }
  }

  /** What is to be sent now: what is due, else the next event, unless one before it is still on its way. */
  async #next(webhook: WebhookRow, lease: store.Lease): Promise<deliveries.DeliveryRow | undefined> {
    const { id, user_id: userId } = webhook;
    const due = await store.nextDue(this.#db, userId, id);
    if (due) return due;
    if (await store.isHeldUp(this.#db, userId, id)) return undefined;
    return this.#db.transaction().execute((trx) => this.#takeEvent(trx, lease));
  }

  /** Makes a delivery of the next event that the webhook wants, and moves its position there in the same transaction. */
  async #takeEvent(trx: Transaction<Schema>, lease: store.Lease): Promise<deliveries.DeliveryRow | undefined> {
    const webhook = await store.lockLeasedAcrossTenants(trx, lease);
    if (!webhook) return undefined;
    let position = Number(webhook.position);
    for (;;) {
      const events = await readEvents(trx, webhook.user_id, position, PAGE);
      const event = events.find((one) => wants(webhook, one));
      position = (event ?? events.at(-1))?.seq ?? position;
      if (event || events.length < PAGE) {
        await store.setPositionAcrossTenants(trx, lease, position);
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

  async #settle(userId: string, lease: store.Lease, delivery: deliveries.DeliveryRow, attempt: Attempt): Promise<void> {
    const { retriesS = RETRIES_S, disableAfterS = DISABLE_AFTER_S } = this.#options;
    const verdict = verdictOn(attempt, delivery.tries + 1, retriesS);
    await this.#db.transaction().execute(async (trx) => {
      // Whoever took the lease over makes the attempt again; this one is as if it had not been.
      if (!(await store.lockLeasedAcrossTenants(trx, lease))) return;
      await deliveries.insertAttempt(trx, userId, delivery.id, {
        ms: attempt.ms,
        status: attempt.status ?? null,
        error: attempt.error ?? null,
        response: attempt.response ?? null,
      });
      await store.settleDelivery(trx, userId, delivery.id, verdict);
      const isDead = await store.noteHealthAcrossTenants(trx, lease, isSuccess(attempt), disableAfterS);
      if (isGone(attempt)) await this.#disable(trx, userId, lease, 'the receiver answered 410 Gone');
      else if (verdict.status === 'failed' && isDead)
        await this.#disable(trx, userId, lease, 'every attempt has failed for too long');
    });
  }

  async #disable(trx: Transaction<Schema>, userId: string, lease: store.Lease, reason: string): Promise<void> {
    await store.disableAcrossTenants(trx, lease, reason);
    await deliveries.failPending(trx, userId, lease.webhookId);
    const payload = { webhook_id: lease.webhookId, reason };
    await appendEvent(trx, userId, { type: 'webhook.disabled', actor: 'webhooks', requestId: null, payload });
  }
}
