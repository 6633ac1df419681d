import { createHash, randomInt, timingSafeEqual } from 'node:crypto';
import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Outcome } from '../../lib/attempt.js';
import { AppError, wrongField } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import type { Vault } from '../../vault/vault.js';
import * as store from './channels.store.js';
import type { Mailer } from './mailer.js';
import { codeMail } from './message.js';
import { targetPlace } from './sender.js';

export interface ConfirmationOptions {
  db: Kysely<Schema>;
  vault: Vault;
  mailer: Mailer | undefined;
}

const GOOD_S = 1_800;
const GUESSES = 5;
const DAY_S = 86_400;
/** Mails that are asked for by hand: of one user, and to one address by whoever asks. */
const MAILS = {
  code: { ofUser: 10, toAddress: 4, windowS: DAY_S },
  test: { ofUser: 20, toAddress: 10, windowS: 3_600 },
} as const;

/** Proves that whoever adds an address reads what is sent there, before anything else is. */
export class Confirmation {
  readonly #options: ConfirmationOptions;

  constructor(options: ConfirmationOptions) {
    this.#options = options;
  }

  /** Throws where no mail can be sent at all. */
  checkIsSetUp(): void {
    this.#mailer();
  }

  /** Makes a code for the channel, as part of what makes it or changes its address. Throws where too many were mailed. */
  async makeCode(
    trx: Transaction<Schema>,
    user: { id: string; data_key: Buffer },
    channelId: string,
    address: string,
  ): Promise<string> {
    await this.noteMail(trx, user.id, 'code', address);
    const code = String(randomInt(100_000_000)).padStart(8, '0');
    await store.setCode(
      trx,
      user.id,
      channelId,
      this.#options.vault.seal(user.data_key, codePlace(channelId), Buffer.from(code)),
      GOOD_S,
    );
    return code;
  }

  sendCode(address: string, code: string, signal: AbortSignal): Promise<Outcome> {
    return this.#mailer().send({ to: address, ...codeMail(code, GOOD_S) }, signal);
  }

  /** Another code, for whoever has lost the one before it. */
  async resend(userId: string, channelId: string, signal: AbortSignal): Promise<Outcome> {
    if (!(await store.readChannel(this.#options.db, userId, channelId))) throw new AppError('not_found', 'channel not found');
    this.checkIsSetUp();
    const { address, code } = await this.#options.db.transaction().execute(async (trx) => {
      const user = await store.lockUser(trx, userId);
      const channel = user && (await store.readChannel(trx, userId, channelId));
      if (!user || !channel) throw new AppError('not_found', 'channel not found');
      if (channel.kind !== 'email' || channel.confirmed_at) throw new AppError('conflict', 'the channel needs no code');
      const to = this.#options.vault
        .open(user.data_key, targetPlace(channelId, channel.target_version), channel.target)
        .toString('utf8');
      return { address: to, code: await this.makeCode(trx, user, channelId, to) };
    });
    return this.sendCode(address, code, signal);
  }

  /** The channel as it was when the code was right; throws where it is not. Every guess counts, whatever becomes of the request. */
  async guess(userId: string, channelId: string, code: string): Promise<store.ChannelRow> {
    const channel = await store.takeGuess(this.#options.db, userId, channelId, GUESSES);
    if (!channel) throw await this.#whyNoGuess(userId, channelId);
    const dataKey = await store.readDataKey(this.#options.db, userId);
    if (!dataKey || !channel.code) throw new AppError('not_found', 'channel not found');
    const right = this.#options.vault.open(dataKey, codePlace(channelId), channel.code);
    if (!isEqual(right, Buffer.from(code))) throw wrongField('code', 'is not the code that was mailed');
    return channel;
  }

  /** Counts a mail that somebody asked for by hand. Throws where there were too many. */
  async noteMail(trx: Transaction<Schema>, userId: string, purpose: 'code' | 'test', address: string): Promise<void> {
    const { windowS, ...most } = MAILS[purpose];
    const mail = { purpose, address_digest: createHash('sha256').update(address.toLowerCase()).digest('hex') };
    const { ofUser, toAddress } = await store.countMails(trx, userId, { ...mail, windowS });
    if (ofUser >= most.ofUser || toAddress >= most.toAddress)
      throw new AppError('rate_limited', `too many mails of this kind were asked for`, { retryAfterS: windowS });
    await store.insertMail(trx, userId, { id: newId('ntd'), ...mail });
  }

  #mailer(): Mailer {
    const { mailer } = this.#options;
    if (mailer) return mailer;
    throw new AppError('conflict', 'e-mail is not set up on this Berth: its operator sets SMTP_URL');
  }

  async #whyNoGuess(userId: string, channelId: string): Promise<AppError> {
    const channel = await store.readChannel(this.#options.db, userId, channelId);
    if (!channel) return new AppError('not_found', 'channel not found');
    if (!channel.code) return new AppError('conflict', 'the channel waits for no code');
    return new AppError('conflict', 'the code is not good any more: ask for another one');
  }
}

function codePlace(channelId: string) {
  return { scope: channelId, name: 'notifications.code', version: 1 };
}

function isEqual(one: Buffer, other: Buffer): boolean {
  return one.length === other.length && timingSafeEqual(one, other);
}
