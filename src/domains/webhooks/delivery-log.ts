import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { AppError } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import { encodeCursor, type Page, type PageRequest } from '../../lib/page.js';
import { Shares } from '../../lib/shares.js';
import * as store from './deliveries.store.js';
import type { Sender } from './sender.js';
import type { Webhooks } from './webhooks.js';
import type { AttemptAnswer, DeliveryAnswer, DeliveryDetail, TestAnswer } from './webhooks.schema.js';
import { readDataKey } from './webhooks.store.js';

export interface DeliveryLogOptions {
  db: Kysely<Schema>;
  webhooks: Webhooks;
  sender: Sender;
  /** Says that something of a user's is due. */
  hint(userId: string): void;
}

/** Tests of one user's webhooks at once: each may take as long as an attempt. */
const TESTS_AT_ONCE = 2;

/** What was sent to webhooks and what they answered; sending again, and sending a test. */
export class DeliveryLog {
  readonly #options: DeliveryLogOptions;
  readonly #db: Kysely<Schema>;
  readonly #testing = new Shares();

  constructor(options: DeliveryLogOptions) {
    this.#options = options;
    this.#db = options.db;
  }

  /** The newest first. */
  async list(
    userId: string,
    webhookId: string,
    status: store.DeliveryRow['status'] | undefined,
    page: PageRequest,
  ): Promise<Page<DeliveryAnswer>> {
    await this.#options.webhooks.find(userId, webhookId);
    const rows = await store.listDeliveries(this.#db, userId, webhookId, status, page);
    const shown = rows.slice(0, page.limit);
    const last = shown.at(-1);
    const more = rows.length > page.limit && last !== undefined;
    return {
      data: shown.map(deliveryAnswer),
      pagination: { next_cursor: more ? encodeCursor(last.id) : null, has_more: more, total: null },
    };
  }

  async get(userId: string, webhookId: string, id: string): Promise<DeliveryDetail> {
    await this.#options.webhooks.find(userId, webhookId);
    const row = await store.readDelivery(this.#db, userId, webhookId, id);
    if (!row) throw new AppError('not_found', 'delivery not found');
    const log = await store.readAttempts(this.#db, userId, id);
    return { ...deliveryAnswer(row), body: row.body, log: log.map(attemptAnswer) };
  }

  /** Sends it again, the same bytes under the same id, whatever became of it. */
  async replay(userId: string, webhookId: string, id: string): Promise<DeliveryDetail> {
    const webhook = await this.#options.webhooks.find(userId, webhookId);
    if (!webhook.enabled) throw new AppError('conflict', 'the webhook is disabled');
    if (!(await store.replayDelivery(this.#db, userId, webhookId, id))) throw new AppError('not_found', 'delivery not found');
    this.#options.hint(userId);
    return this.get(userId, webhookId, id);
  }

  /** Sends a `webhook.test` at once and says what came of it; also to one that is disabled. */
  async test(userId: string, webhookId: string, signal: AbortSignal): Promise<TestAnswer> {
    const webhook = await this.#options.webhooks.find(userId, webhookId);
    const dataKey = await readDataKey(this.#db, userId);
    if (!dataKey) throw new AppError('not_found', 'webhook not found');
    const eventId = newId('evt');
    const body = JSON.stringify({
      type: 'webhook.test',
      timestamp: new Date().toISOString(),
      data: { webhook_id: webhookId },
      id: eventId,
      user_id: userId,
    });
    const attempt = await this.#testing.during(userId, TESTS_AT_ONCE, 'tests of webhooks', () =>
      this.#options.sender.send(webhook, dataKey, { eventId, body }, signal),
    );
    const delivered = attempt.error === undefined;
    const id = newId('whd');
    const row = await this.#db.transaction().execute(async (trx) => {
      const status = delivered ? 'delivered' : 'failed';
      const made = { id, webhook_id: webhookId, event_id: eventId, type: 'webhook.test', body, status, in_order: false } as const;
      await store.insertDelivery(trx, userId, made);
      const { ms, status: answered = null, error = null, response = null } = attempt;
      return store.insertAttempt(trx, userId, id, { ms, status: answered, error, response });
    });
    return { delivered, delivery_id: id, attempt: attemptAnswer(row) };
  }
}

function deliveryAnswer(
  row: Pick<store.DeliveryRow, 'id' | 'event_id' | 'type' | 'status' | 'next_at' | 'created_at' | 'ended_at'> & {
    attempts: number;
  },
): DeliveryAnswer {
  return {
    id: row.id,
    event_id: row.event_id,
    type: row.type,
    status: row.status,
    attempts: row.attempts,
    next_attempt_at: row.next_at?.toISOString() ?? null,
    created_at: row.created_at.toISOString(),
    ended_at: row.ended_at?.toISOString() ?? null,
  };
}

function attemptAnswer(row: store.AttemptRow): AttemptAnswer {
  const { n, ms, status, error, response } = row;
  return { n, at: row.at.toISOString(), ms, status, error, response };
}
