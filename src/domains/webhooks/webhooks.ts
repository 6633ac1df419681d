import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { appendEvent } from '../../events/outbox.js';
import { actorOf, type Change } from '../../lib/caller.js';
import { AppError, wrongField } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import { type Page, type PageRequest, pageOf } from '../../lib/page.js';
import type { Poster } from '../../link/outbound.js';
import type { Vault } from '../../vault/vault.js';
import { secretPlace } from './sender.js';
import { newSecret, secretOf, secretText } from './signing.js';
import * as deliveries from './deliveries.store.js';
import type { CreateWebhook, NewWebhookAnswer, RotateSecret, UpdateWebhook, WebhookAnswer } from './webhooks.schema.js';
import * as store from './webhooks.store.js';

export interface WebhooksOptions {
  db: Kysely<Schema>;
  vault: Vault;
  poster: Pick<Poster, 'refusal'>;
  retentionDays: number;
}

const WEBHOOKS_AT_MOST = 20;
const OVERLAP_S = 86_400;
const PRUNED_AT_ONCE = 5_000;

/** A user's webhooks: where its events are sent. `carrier.ts` sends them. */
export class Webhooks {
  readonly #db: Kysely<Schema>;
  readonly #vault: Vault;
  readonly #poster: Pick<Poster, 'refusal'>;
  readonly #retentionDays: number;

  constructor({ db, vault, poster, retentionDays }: WebhooksOptions) {
    this.#db = db;
    this.#vault = vault;
    this.#poster = poster;
    this.#retentionDays = retentionDays;
  }

  /** Sends what happens from now on. The secret is in the answer and can be had nowhere else. */
  async create(userId: string, wish: CreateWebhook, { caller, requestId }: Change): Promise<NewWebhookAnswer> {
    const secret = given(wish.secret);
    const url = this.#checked(wish.url);
    return this.#db.transaction().execute(async (trx) => {
      const user = await this.#lock(trx, userId);
      if ((await store.countWebhooks(trx, userId)) >= WEBHOOKS_AT_MOST)
        throw new AppError('limit_exceeded', `a user may have ${WEBHOOKS_AT_MOST} webhooks`);
      const id = newId('whk');
      const row = await store.insertWebhook(trx, userId, {
        id,
        url,
        description: wish.description ?? null,
        events: wish.events ?? ['*'],
        secret: this.#vault.seal(user.data_key, secretPlace(id, 1), secret),
        ...(wish.enabled === false ? { enabled: false, disabled_reason: BY_HAND } : {}),
        position: 0,
      });
      await this.#say(trx, userId, 'created', id, { caller, requestId });
      return { ...answerOf(row), secret: secretText(secret) };
    });
  }

  async list(userId: string, page: PageRequest): Promise<Page<WebhookAnswer>> {
    const [rows, total] = await Promise.all([store.listWebhooks(this.#db, userId, page), store.countWebhooks(this.#db, userId)]);
    return pageOf(rows, page, total, answerOf);
  }

  async get(userId: string, id: string): Promise<WebhookAnswer> {
    return answerOf(await this.find(userId, id));
  }

  async find(userId: string, id: string): Promise<store.WebhookRow> {
    const row = await store.readWebhook(this.#db, userId, id);
    if (!row) throw new AppError('not_found', 'webhook not found');
    return row;
  }

  async update(
    userId: string,
    id: string,
    wish: UpdateWebhook,
    version: number | undefined,
    change: Change,
  ): Promise<WebhookAnswer> {
    const { enabled, url, ...rest } = wish;
    const checked = url === undefined ? {} : { url: this.#checked(url) };
    return this.#db.transaction().execute(async (trx) => {
      await this.#lock(trx, userId);
      const before = await store.readWebhook(trx, userId, id);
      if (!before) throw new AppError('not_found', 'webhook not found');
      const turned = enabled === undefined || enabled === before.enabled ? undefined : enabled;
      const set = { ...rest, ...checked, ...(turned === undefined ? {} : turned ? ON : OFF) };
      const row = await store.updateWebhook(trx, userId, id, set, version);
      if (!row) throw new AppError('precondition_failed', 'the webhook has changed since that version');
      if (turned === false) await deliveries.failPending(trx, userId, id);
      await this.#say(trx, userId, 'updated', id, change, { fields: Object.keys(wish), startsNow: turned === true });
      return answerOf(row);
    });
  }

  async delete(userId: string, id: string, change: Change): Promise<void> {
    await this.#db.transaction().execute(async (trx) => {
      if (!(await store.deleteWebhook(trx, userId, id))) throw new AppError('not_found', 'webhook not found');
      await this.#say(trx, userId, 'deleted', id, change);
    });
  }

  /** Another secret, shown this once. The one before it signs too for a while, so that receivers can change over in their time. */
  async rotate(userId: string, id: string, wish: RotateSecret, change: Change): Promise<NewWebhookAnswer> {
    const secret = given(wish.secret);
    return this.#db.transaction().execute(async (trx) => {
      const user = await this.#lock(trx, userId);
      const before = await store.readWebhook(trx, userId, id);
      if (!before) throw new AppError('not_found', 'webhook not found');
      const version = before.secret_version + 1;
      const row = await store.updateWebhook(trx, userId, id, {
        secret: this.#vault.seal(user.data_key, secretPlace(id, version), secret),
        secret_version: version,
        old_secret: before.secret,
        old_secret_version: before.secret_version,
        overlapS: wish.overlap_s ?? OVERLAP_S,
      });
      if (!row) throw new AppError('not_found', 'webhook not found');
      await this.#say(trx, userId, 'secret_rotated', id, change);
      return { ...answerOf(row), secret: secretText(secret) };
    });
  }

  /** Forgets old deliveries, in short transactions. */
  async prune(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const gone = await deliveries.pruneDeliveriesAcrossTenants(this.#db, this.#retentionDays, PRUNED_AT_ONCE);
      if (gone < PRUNED_AT_ONCE) return;
    }
  }

  /** Part of the user's deletion. */
  erase(trx: Transaction<Schema>, userId: string): Promise<void> {
    return store.eraseWebhooks(trx, userId);
  }

  #checked(text: string): string {
    const url = URL.canParse(text) ? new URL(text) : undefined;
    const message = url ? this.#poster.refusal(url) : 'must be a URL';
    if (!url || message !== undefined) throw wrongField('url', message ?? '');
    return url.href;
  }

  async #lock(trx: Transaction<Schema>, userId: string): Promise<{ data_key: Buffer }> {
    const user = await store.lockUser(trx, userId);
    if (!user) throw new AppError('not_found', 'user not found');
    return user;
  }

  async #say(
    trx: Transaction<Schema>,
    userId: string,
    action: string,
    id: string,
    { caller, requestId }: Change,
    { fields, startsNow = action === 'created' }: { fields?: string[]; startsNow?: boolean } = {},
  ): Promise<void> {
    const payload = { webhook_id: id, ...(fields ? { fields } : {}) };
    const seq = await appendEvent(trx, userId, { type: `webhook.${action}`, actor: actorOf(caller), requestId, payload });
    if (startsNow) await store.setPosition(trx, userId, id, seq);
  }
}

const BY_HAND = 'it was disabled by its user';
const ON = { enabled: true, disabled_reason: null, failing_since: null };
const OFF = { enabled: false, disabled_reason: BY_HAND };

function given(text: string | undefined): Buffer {
  if (text === undefined) return newSecret();
  const secret = secretOf(text);
  if (secret) return secret;
  throw wrongField('secret', 'must be whsec_ and 24 to 64 bytes as base64');
}

function answerOf(row: store.WebhookRow): WebhookAnswer {
  return {
    id: row.id,
    url: row.url,
    description: row.description,
    events: row.events,
    enabled: row.enabled,
    status: !row.enabled ? 'disabled' : row.failing_since ? 'failing' : 'active',
    disabled_reason: row.disabled_reason,
    failing_since: row.failing_since?.toISOString() ?? null,
    old_secret_until: row.old_secret_until?.toISOString() ?? null,
    version: row.version,
    created_at: row.created_at.toISOString(),
    updated_at: row.updated_at.toISOString(),
  };
}
