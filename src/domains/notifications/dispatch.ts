import { setMaxListeners } from 'node:events';
import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { appendEvent } from '../../events/outbox.js';
import { type Clock, systemClock } from '../../lib/clock.js';
import { messageOf as errorText } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import { Loop } from '../../lib/loop.js';
import { type ChannelRow, readDataKey } from './channels.store.js';
import * as store from './dispatch.store.js';
import type { Matching } from './matching.js';
import { messageOf } from './message.js';
import { readNotification } from './notifications.store.js';
import { type Outcome, RETRIES_S, verdictOn } from './outcome.js';
import { isQuietAt, quietLookS } from './quiet.js';
import { record } from './recorder.js';
import type { Sender } from './sender.js';

export interface DispatchOptions {
  db: Kysely<Schema>;
  bus: Bus;
  log: Log;
  processId: string;
  matching: Matching;
  sender: Sender;
  /** Where they are not to be as usual: waits after failed attempts, how often all are looked at, when a dead one is given up, quiet times. */
  retriesS?: readonly number[] | undefined;
  everyMs?: number | undefined;
  disableAfterS?: number | undefined;
  clock?: Clock | undefined;
  quietLookAtMostS?: number | undefined;
}

/** A lease outlives the longest attempt by far, and is renewed at each. */
const LEASE_S = 60;
/** Channels worked on at once by this process, and of one user: one whose receiver is slow keeps its own user waiting. */
const AT_ONCE = 32;
const PER_USER = 4;
/** Deliveries before others have their turn. */
const IN_A_ROW = 20;
/** News that come close together are looked at together. */
const GATHER_MS = 10;
const DISABLE_AFTER_S = 24 * 3_600;
const QUIET_LOOK_AT_MOST_S = 300;

/**
 * Hears of events, has rules held against them, and sends what that and all else put on its way: at least once. What is to be sent, and when, is in
 * the database; whichever process holds a channel's lease sends, so that a process that dies leaves nothing undone.
 */
export class NotificationDispatch {
  readonly #options: DispatchOptions;
  readonly #db: Kysely<Schema>;
  readonly #loop: Loop;
  readonly #clock: Clock;
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
    this.#clock = options.clock ?? systemClock;
    this.#everyMs = options.everyMs ?? 5_000;
    setMaxListeners(0, this.#stop.signal);
    this.#loop = new Loop({ name: 'send notifications', everyMs: this.#everyMs, run: () => this.#look() }, options.log);
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

  #hear(userId: string): void {
    this.#news.add(userId);
    this.#gathering ??= setTimeout(() => {
      this.#gathering = undefined;
      this.#loop.wake();
    }, GATHER_MS);
  }

  async #look(): Promise<void> {
    const now = performance.now();
    const all = now - this.#lookedAtAllMs >= this.#everyMs * 0.9;
    const news = [...this.#news];
    this.#news = new Set();
    if (all) this.#lookedAtAllMs = now;
    if (!all && news.length === 0) return;
    const of = all ? undefined : news;
    await this.#options.matching.run(of, this.#stop.signal);
    await this.#claim(of);
  }

  async #claim(of: string[] | undefined): Promise<void> {
    const atMost = AT_ONCE - this.#running.size;
    if (atMost <= 0 || this.#stop.signal.aborted) return;
    const { processId } = this.#options;
    const without = this.#busyUsers();
    const claim = { processId, leaseS: LEASE_S, atMost, perUser: PER_USER, of, without };
    for (const channel of await store.claimAcrossTenants(this.#db, claim)) this.#begin(channel);
  }

  #busyUsers(): string[] {
    const counts = new Map<string, number>();
    for (const { userId } of this.#running.values()) counts.set(userId, (counts.get(userId) ?? 0) + 1);
    return [...counts].filter(([, count]) => count >= PER_USER).map(([userId]) => userId);
  }

  #begin({ id, user_id: userId }: ChannelRow): void {
    if (this.#running.has(id)) return;
    const done = this.#run(id, userId)
      .catch((error: unknown) => {
        if (!this.#stop.signal.aborted)
          this.#options.log.error({ channel: id, err: error }, `a channel could not be served: ${errorText(error)}`);
      })
      .finally(() => {
        this.#running.delete(id);
        // What came meanwhile, and whoever waited for a place.
        if (!this.#stop.signal.aborted) this.#hear(userId);
      });
    this.#running.set(id, { userId, done });
  }

  async #run(channelId: string, userId: string): Promise<void> {
    const lease = { channelId, processId: this.#options.processId };
    try {
      const dataKey = await readDataKey(this.#db, userId);
      for (let sent = 0; dataKey && sent < IN_A_ROW && !this.#stop.signal.aborted; sent++) {
        const channel = await store.renewAcrossTenants(this.#db, lease, LEASE_S);
        if (!channel || !(await this.#sendNext(channel, dataKey, lease))) return;
      }
    } finally {
      await store.releaseAcrossTenants(this.#db, lease);
    }
  }

  /** Answers whether there was something to send. */
  async #sendNext(channel: ChannelRow, dataKey: Buffer, lease: store.Lease): Promise<boolean> {
    const { id, user_id: userId } = channel;
    const held = await this.#keepQuiet(channel);
    if (held === 'all') return false;
    const delivery = await store.nextDue(this.#db, userId, id, held === 'uncritical');
    const row = delivery && (await readNotification(this.#db, userId, delivery.notification_id));
    if (!row) return false;
    const outcome = await this.#options.sender.send(channel, dataKey, messageOf(row), this.#stop.signal);
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

  async #settle(channel: ChannelRow, lease: store.Lease, delivery: store.DeliveryRow, outcome: Outcome): Promise<void> {
    const { retriesS = RETRIES_S, disableAfterS = DISABLE_AFTER_S } = this.#options;
    const { id, user_id: userId } = channel;
    const verdict = verdictOn(outcome, delivery.tries + 1, retriesS);
    await this.#db.transaction().execute(async (trx) => {
      // Whoever took the lease over makes the attempt again; this one is as if it had not been.
      if (!(await store.lockLeasedAcrossTenants(trx, lease))) return;
      await store.settleDelivery(trx, userId, delivery.id, { ...verdict, error: outcome.error ?? null });
      const isDead =
        outcome.isOfBerth !== true && (await store.noteHealth(trx, userId, id, outcome.error === undefined, disableAfterS));
      const reason = reasonToDisable(outcome, verdict.status === 'failed' && isDead);
      if (reason === undefined) return;
      await store.disable(trx, userId, id, reason);
      await store.failPending(trx, userId, id, 'the channel was disabled');
      await record(trx, userId, [disabledNotice(channel, reason)]);
      const payload = { channel_id: id, reason };
      await appendEvent(trx, userId, { type: 'notification.channel_disabled', actor: 'notifications', requestId: null, payload });
    });
  }
}

function reasonToDisable({ isGone }: Outcome, isDead: boolean): string | undefined {
  if (isGone === true) return 'the receiver answered 410 Gone';
  return isDead ? 'every attempt has failed for too long' : undefined;
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
