import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { appendEvent } from '../../events/outbox.js';
import { actorOf, type Change } from '../../lib/caller.js';
import { AppError, wrongField } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import { type Page, type PageRequest, pageOf } from '../../lib/page.js';
import { Shares } from '../../lib/shares.js';
import type { Poster } from '../../link/outbound.js';
import type { Vault } from '../../vault/vault.js';
import {
  type ChannelAnswer,
  channelAnswer,
  type CreateChannel,
  type NewChannelAnswer,
  type SentAnswer,
  type UpdateChannel,
} from './channels.schema.js';
import * as store from './channels.store.js';
import type { Confirmation } from './confirmation.js';
import { failPending } from './dispatch.store.js';
import { testMessage } from './message.js';
import { secretPlace, type Sender, type Signing, targetPlace } from './sender.js';
import { hintOf, targetOf } from './target.js';

export interface ChannelsOptions {
  db: Kysely<Schema>;
  vault: Vault;
  poster: Omit<Poster, 'post'>;
  signing: Signing;
  sender: Sender;
  confirmation: Confirmation;
}

const CHANNELS_AT_MOST = 20;
/** Tests of one user's channels at once: each may take as long as an attempt. */
const TESTS_AT_ONCE = 2;
const BY_HAND = 'it was disabled by its user';

/** A user's channels: where notifications go out, besides the inbox. `carrier.ts` sends them. */
export class Channels {
  readonly #options: ChannelsOptions;
  readonly #db: Kysely<Schema>;
  readonly #testing = new Shares();

  constructor(options: ChannelsOptions) {
    this.#options = options;
    this.#db = options.db;
  }

  /** An address is mailed a code, and gets nothing else until it is confirmed. A webhook's secret can be had nowhere but in this answer. */
  async create(userId: string, wish: CreateChannel, change: Change, signal: AbortSignal): Promise<NewChannelAnswer> {
    const { kind } = wish;
    const { confirmation, poster, signing, vault } = this.#options;
    if (kind === 'email') confirmation.checkIsSetUp();
    const target = targetOf(kind, wish, poster);
    if (target === undefined) throw wrongField(kind === 'email' ? 'address' : 'url', 'is required for this kind');
    const secret = secretFor(kind, wish.secret, signing);
    const { row, code } = await this.#db.transaction().execute(async (trx) => {
      const user = await lock(trx, userId);
      if ((await store.countChannels(trx, userId)) >= CHANNELS_AT_MOST)
        throw new AppError('limit_exceeded', `a user may have ${CHANNELS_AT_MOST} channels`);
      const id = newId('nch');
      const made = await store.insertChannel(trx, userId, {
        id,
        kind,
        name: wish.name,
        target: vault.seal(user.data_key, targetPlace(id, 1), Buffer.from(target)),
        target_hint: hintOf(kind, target),
        secret: secret ? vault.seal(user.data_key, secretPlace(id), secret) : null,
        quiet: wish.quiet ? JSON.stringify(wish.quiet) : null,
        ...(wish.critical_anytime === undefined ? {} : { critical_anytime: wish.critical_anytime }),
        ...(wish.enabled === false ? { enabled: false, disabled_reason: BY_HAND } : {}),
      });
      const mailed = kind === 'email' ? await confirmation.makeCode(trx, user, id, target) : undefined;
      await say(trx, userId, 'created', id, change);
      return { row: made, code: mailed };
    });
    return {
      ...channelAnswer(row),
      ...(secret ? { secret: signing.secretText(secret) } : {}),
      ...(code === undefined ? {} : { code_sent: await this.#sendCode(target, code, signal) }),
    };
  }

  async list(userId: string, page: PageRequest): Promise<Page<ChannelAnswer>> {
    const [rows, total] = await Promise.all([store.listChannels(this.#db, userId, page), store.countChannels(this.#db, userId)]);
    return pageOf(rows, page, total, channelAnswer);
  }

  async get(userId: string, id: string): Promise<ChannelAnswer> {
    return channelAnswer(await this.#find(this.#db, userId, id));
  }

  /** Another address has to be confirmed as the first one was. */
  async update(
    userId: string,
    id: string,
    wish: UpdateChannel,
    version: number | undefined,
    change: Change,
    signal: AbortSignal,
  ): Promise<NewChannelAnswer> {
    const { confirmation, poster } = this.#options;
    const { row, mail } = await this.#db.transaction().execute(async (trx) => {
      const user = await lock(trx, userId);
      const before = await this.#find(trx, userId, id);
      const target = targetOf(before.kind, wish, poster);
      const isMailed = before.kind === 'email' && target !== undefined;
      if (isMailed) confirmation.checkIsSetUp();
      const set = {
        ...plainChange(wish, before),
        ...(target === undefined ? {} : this.#retargeted(before, user.data_key, target)),
      };
      const after = await store.updateChannel(trx, userId, id, set, version);
      if (!after) throw new AppError('precondition_failed', 'the channel has changed since that version');
      if (!after.enabled && before.enabled) await failPending(trx, userId, id, 'the channel was disabled');
      if (isMailed) await failPending(trx, userId, id, 'the address was changed');
      const mailed = isMailed ? { to: target, code: await confirmation.makeCode(trx, user, id, target) } : undefined;
      await say(trx, userId, 'updated', id, change, Object.keys(wish));
      return { row: after, mail: mailed };
    });
    return { ...channelAnswer(row), ...(mail ? { code_sent: await this.#sendCode(mail.to, mail.code, signal) } : {}) };
  }

  async delete(userId: string, id: string, change: Change): Promise<void> {
    await this.#db.transaction().execute(async (trx) => {
      await lock(trx, userId);
      if (!(await store.deleteChannel(trx, userId, id))) throw new AppError('not_found', 'channel not found');
      await say(trx, userId, 'deleted', id, change);
    });
  }

  async confirm(userId: string, id: string, code: string, change: Change): Promise<ChannelAnswer> {
    const { target_version: version } = await this.#options.confirmation.guess(userId, id, code);
    return this.#db.transaction().execute(async (trx) => {
      const row = await store.confirmChannel(trx, userId, id, version);
      if (!row) throw new AppError('conflict', 'the address has changed since the code was mailed');
      await say(trx, userId, 'confirmed', id, change);
      return channelAnswer(row);
    });
  }

  async resendCode(userId: string, id: string, signal: AbortSignal): Promise<SentAnswer> {
    return sentAnswer(await this.#options.confirmation.resend(userId, id, signal));
  }

  /** Sends a test at once and says what came of it; also by a channel that is disabled, never to an address that is not confirmed. */
  async test(userId: string, id: string, signal: AbortSignal): Promise<SentAnswer> {
    const channel = await this.#find(this.#db, userId, id);
    if (!channel.confirmed_at) throw new AppError('conflict', 'the address is not confirmed');
    const dataKey = await store.readDataKey(this.#db, userId);
    if (!dataKey) throw new AppError('not_found', 'channel not found');
    if (channel.kind === 'email') await this.#noteTest(userId, channel, dataKey);
    const message = testMessage(newId('ntf'), userId, channel);
    return sentAnswer(
      await this.#testing.during(userId, TESTS_AT_ONCE, 'tests of channels', () =>
        this.#options.sender.send(channel, dataKey, message, signal),
      ),
    );
  }

  async #noteTest(userId: string, channel: store.ChannelRow, dataKey: Buffer): Promise<void> {
    const { vault, confirmation } = this.#options;
    const address = vault.open(dataKey, targetPlace(channel.id, channel.target_version), channel.target).toString('utf8');
    await this.#db.transaction().execute(async (trx) => {
      await lock(trx, userId);
      await confirmation.noteMail(trx, userId, 'test', address);
    });
  }

  async #sendCode(address: string, code: string, signal: AbortSignal): Promise<boolean> {
    return (await this.#options.confirmation.sendCode(address, code, signal)).error === undefined;
  }

  #retargeted(before: store.ChannelRow, dataKey: Buffer, target: string) {
    const version = before.target_version + 1;
    return {
      target: this.#options.vault.seal(dataKey, targetPlace(before.id, version), Buffer.from(target)),
      target_version: version,
      target_hint: hintOf(before.kind, target),
      ...(before.kind === 'email' ? { confirmed_at: null } : {}),
    };
  }

  async #find(db: Kysely<Schema>, userId: string, id: string): Promise<store.ChannelRow> {
    const row = await store.readChannel(db, userId, id);
    if (!row) throw new AppError('not_found', 'channel not found');
    return row;
  }
}

function plainChange({ name, quiet, critical_anytime, enabled }: UpdateChannel, before: store.ChannelRow) {
  const isTurned = enabled !== undefined && enabled !== before.enabled;
  return {
    ...(name === undefined ? {} : { name }),
    ...(quiet === undefined ? {} : { quiet: quiet && JSON.stringify(quiet) }),
    ...(critical_anytime === undefined ? {} : { critical_anytime }),
    ...(isTurned ? { enabled, disabled_reason: enabled ? null : BY_HAND, failing_since: null } : {}),
  };
}

function secretFor(kind: CreateChannel['kind'], text: string | undefined, signing: Signing): Buffer | undefined {
  if (kind !== 'webhook') {
    if (text !== undefined) throw wrongField('secret', `is not for channels of kind ${kind}`);
    return undefined;
  }
  if (text === undefined) return signing.newSecret();
  const secret = signing.secretOf(text);
  if (!secret) throw wrongField('secret', 'must be whsec_ and 24 to 64 bytes as base64');
  return secret;
}

function sentAnswer({ error }: { error?: string | undefined }): SentAnswer {
  return { delivered: error === undefined, error: error ?? null };
}

async function lock(trx: Transaction<Schema>, userId: string): Promise<{ id: string; data_key: Buffer }> {
  const user = await store.lockUser(trx, userId);
  if (!user) throw new AppError('not_found', 'user not found');
  return user;
}

async function say(
  trx: Transaction<Schema>,
  userId: string,
  action: string,
  id: string,
  { caller, requestId }: Change,
  fields?: string[],
): Promise<void> {
  const payload = { channel_id: id, ...(fields ? { fields } : {}) };
  await appendEvent(trx, userId, { type: `notification.channel_${action}`, actor: actorOf(caller), requestId, payload });
}
