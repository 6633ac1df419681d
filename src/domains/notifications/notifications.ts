import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { AppError } from '../../lib/errors.js';
import { type Page, type PageRequest, pageOf } from '../../lib/page.js';
import { pruneMailsAcrossTenants } from './channels.store.js';
import { deliveriesOf } from './dispatch.store.js';
import { type NotificationAnswer, notificationAnswer, type NotificationDetail } from './notifications.schema.js';
import * as store from './notifications.store.js';

export interface NotificationsOptions {
  db: Kysely<Schema>;
  /** Notifications are forgotten after so many days. */
  retentionDays: number;
}

const PRUNED_AT_ONCE = 5_000;

/** A user's inbox: what its rules found, and what Berth itself has to say. */
export class Notifications {
  readonly #db: Kysely<Schema>;
  readonly #retentionDays: number;

  constructor({ db, retentionDays }: NotificationsOptions) {
    this.#db = db;
    this.#retentionDays = retentionDays;
  }

  /** The newest first. */
  async list(userId: string, isUnread: boolean, page: PageRequest): Promise<Page<NotificationAnswer>> {
    return pageOf(await store.listNotifications(this.#db, userId, isUnread, page), page, null, notificationAnswer);
  }

  async get(userId: string, id: string): Promise<NotificationDetail> {
    const row = await store.readNotification(this.#db, userId, id);
    if (!row) throw new AppError('not_found', 'notification not found');
    const deliveries = await deliveriesOf(this.#db, userId, id);
    return {
      ...notificationAnswer(row),
      deliveries: deliveries.map((one) => ({
        id: one.id,
        channel_id: one.channel_id,
        status: one.status,
        tries: one.tries,
        error: one.error,
        next_at: one.next_at?.toISOString() ?? null,
        ended_at: one.ended_at?.toISOString() ?? null,
      })),
    };
  }

  async unread(userId: string): Promise<{ count: number }> {
    return { count: await store.countUnread(this.#db, userId) };
  }

  async read(userId: string, id: string): Promise<NotificationAnswer> {
    const row = await store.markRead(this.#db, userId, id);
    if (!row) throw new AppError('not_found', 'notification not found');
    return notificationAnswer(row);
  }

  async readAll(userId: string): Promise<{ count: number }> {
    return { count: await store.markAllRead(this.#db, userId) };
  }

  /** Forgets what is older than it is to be kept, in short transactions. */
  async prune(signal: AbortSignal): Promise<void> {
    await pruneMailsAcrossTenants(this.#db);
    while (!signal.aborted) {
      const gone = await store.pruneNotificationsAcrossTenants(this.#db, this.#retentionDays, PRUNED_AT_ONCE);
      if (gone < PRUNED_AT_ONCE) return;
    }
  }

  /** Part of the user's deletion. */
  erase(trx: Transaction<Schema>, userId: string): Promise<void> {
    return store.eraseNotifications(trx, userId);
  }
}
