import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { appendEvent } from '../../events/outbox.js';
import { DEAD_AFTER_S, type Outcome, reasonToDisable, verdictOn } from '../../lib/attempt.js';
import { type Clock, systemClock } from '../../lib/clock.js';
import type { Carrier, Claim, Lease } from '../../lib/dispatch.js';
import { type ChannelRow, readDataKey } from './channels.store.js';
import * as store from './dispatch.store.js';
import type { Matching } from './matching.js';
import { messageOf } from './message.js';
import { readNotification } from './notifications.store.js';
import { isQuietAt, quietLookS } from './quiet.js';
import { record } from './recorder.js';
import type { Sender } from './sender.js';

export interface CarrierOptions {
  db: Kysely<Schema>;
  matching: Matching;
  sender: Sender;
  /** Where they are not to be as usual: waits after failed attempts, when a dead one is given up, quiet times. */
  retriesS?: readonly number[] | undefined;
  disableAfterS?: number | undefined;
  clock?: Clock | undefined;
  quietLookAtMostS?: number | undefined;
}

const QUIET_LOOK_AT_MOST_S = 300;

/** Has rules held against events, and brings to channels what that and all else put on its way. */
export class NotificationCarrier implements Carrier<ChannelRow> {
  readonly kind = 'channel';
  readonly atOnce = 32;
  readonly #options: CarrierOptions;
  readonly #db: Kysely<Schema>;
  readonly #clock: Clock;

  constructor(options: CarrierOptions) {
    this.#options = options;
    this.#db = options.db;
    this.#clock = options.clock ?? systemClock;
  }

  prepare(of: string[] | undefined, signal: AbortSignal): Promise<void> {
    return this.#options.matching.run(of, signal);
  }

  claim(claim: Claim): Promise<ChannelRow[]> {
    return store.claimAcrossTenants(this.#db, claim);
  }

  renew(userId: string, lease: Lease, leaseS: number): Promise<ChannelRow | undefined> {
    return store.renew(this.#db, userId, lease, leaseS);
  }

  release(userId: string, lease: Lease): Promise<void> {
    return store.release(this.#db, userId, lease);
  }

  dataKeyOf(userId: string): Promise<Buffer | undefined> {
    return readDataKey(this.#db, userId);
  }

  async sendNext(channel: ChannelRow, dataKey: Buffer, lease: Lease, signal: AbortSignal): Promise<boolean> {
    const { id, user_id: userId } = channel;
    const held = await this.#keepQuiet(channel);
    if (held === 'all') return false;
    const delivery = await store.nextDue(this.#db, userId, id, held === 'uncritical');
    const row = delivery && (await readNotification(this.#db, userId, delivery.notification_id));
    if (!row) return false;
    const outcome = await this.#options.sender.send(channel, dataKey, messageOf(row), signal);
    await this.#settle(channel, lease, delivery, outcome);
    return true;
  }

  /** Has what is due wait where it is quiet now; answers what that is. */
  async #keepQuiet({
    id,
    user_id: userId,
    quiet,
    critical_anytime: isAnytime,
  }: ChannelRow): Promise<'none' | 'uncritical' | 'all'> {
    const now = new Date(this.#clock.now());
    if (!quiet || !isQuietAt(quiet, now)) return 'none';
    const inS = quietLookS(quiet, now, this.#options.quietLookAtMostS ?? QUIET_LOOK_AT_MOST_S);
    await store.postpone(this.#db, userId, id, inS, !isAnytime);
    return isAnytime ? 'uncritical' : 'all';
  }

  async #settle(channel: ChannelRow, lease: Lease, delivery: store.DeliveryRow, outcome: Outcome): Promise<void> {
    const { retriesS, disableAfterS = DEAD_AFTER_S } = this.#options;
    const { id, user_id: userId } = channel;
    const verdict = verdictOn(outcome, delivery.tries + 1, retriesS);
    const { error = null, isOfBerth } = outcome;
    await this.#db.transaction().execute(async (trx) => {
      // Whoever took the lease over makes the attempt again; this one is as if it had not been.
      if (!(await store.lockLeased(trx, userId, lease))) return;
      await store.settleDelivery(trx, userId, delivery.id, { ...verdict, error });
      const isDead = !isOfBerth && (await store.noteHealth(trx, userId, id, error === null, disableAfterS));
      const reason = reasonToDisable(outcome, verdict, isDead);
      if (reason !== undefined) await this.#disable(trx, channel, reason);
    });
  }

  async #disable(trx: Transaction<Schema>, channel: ChannelRow, reason: string): Promise<void> {
    const { id, user_id: userId } = channel;
    await store.disable(trx, userId, id, reason);
    await store.failPending(trx, userId, id, 'the channel was disabled');
    await record(trx, userId, [disabledNotice(channel, reason)]);
    const payload = { channel_id: id, reason };
    await appendEvent(trx, userId, { type: 'notification.channel_disabled', actor: 'notifications', requestId: null, payload });
  }
}

/** Nothing of it goes out: the inbox is where it is surely seen. */
function disabledNotice({ id, name }: ChannelRow, reason: string) {
  return {
    rule: undefined,
    kind: 'notice' as const,
    severity: 'warning' as const,
    title: `Channel ${name} was disabled`,
    text: `Nothing is sent by it any more: ${reason}. Enable it again once it works.`,
    agentId: null,
    data: { channel_id: id, reason },
    key: undefined,
    count: 1,
  };
}
