import type { Poster } from '../../link/outbound.js';
import { type Outcome, outcomeOf } from '../../lib/attempt.js';
import { messageOf as errorText } from '../../lib/errors.js';
import type { Vault } from '../../vault/vault.js';
import { VaultError } from '../../vault/vault-error.js';
import type { ChannelRow } from './channels.store.js';
import type { Mailer } from './mailer.js';
import { type Message, slackBody } from './message.js';

/** How webhooks are signed; `webhooks/signing.ts` is one. */
export interface Signing {
  newSecret(): Buffer;
  /** The bytes of a secret's text; undefined for what is none. */
  secretOf(text: string): Buffer | undefined;
  secretText(secret: Buffer): string;
  signedHeaders(id: string, atS: number, body: string, secrets: Buffer[]): Record<string, string>;
}

export interface SenderOptions {
  vault: Vault;
  poster: Poster;
  signing: Pick<Signing, 'signedHeaders'>;
  /** Absent where the operator has set up no mail server. */
  mailer: Mailer | undefined;
}

export function targetPlace(channelId: string, version: number) {
  return { scope: channelId, name: 'notifications.target', version };
}

export function secretPlace(channelId: string) {
  return { scope: channelId, name: 'notifications.secret', version: 1 };
}

/** One attempt to bring a message to a channel. */
export class Sender {
  readonly #options: SenderOptions;

  constructor(options: SenderOptions) {
    this.#options = options;
  }

  /** Never throws for what goes wrong on the way: that is what came of it. */
  async send(channel: ChannelRow, dataKey: Buffer, message: Message, signal: AbortSignal): Promise<Outcome> {
    try {
      const { vault } = this.#options;
      const target = vault.open(dataKey, targetPlace(channel.id, channel.target_version), channel.target).toString('utf8');
      switch (channel.kind) {
        case 'email':
          return await this.#mail(target, message, signal);
        case 'slack':
          return await this.#post(target, {}, slackBody(message), signal);
        case 'webhook':
          return await this.#post(target, this.#signed(channel, dataKey, message), message.body, signal);
      }
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof VaultError) return { error: "the channel's target does not open" };
      return { error: errorText(error).slice(0, 500) };
    }
  }

  async #mail(to: string, { subject, text }: Message, signal: AbortSignal): Promise<Outcome> {
    const { mailer } = this.#options;
    if (!mailer) return { error: 'e-mail is not set up on this Berth', isOfBerth: true };
    return mailer.send({ to, subject, text }, signal);
  }

  #signed(channel: ChannelRow, dataKey: Buffer, { id, body }: Message): Record<string, string> {
    if (!channel.secret) return {};
    const secret = this.#options.vault.open(dataKey, secretPlace(channel.id), channel.secret);
    return this.#options.signing.signedHeaders(id, Math.floor(Date.now() / 1_000), body, [secret]);
  }

  async #post(url: string, more: Record<string, string>, body: string, signal: AbortSignal): Promise<Outcome> {
    const headers = { 'content-type': 'application/json', 'user-agent': 'Berth-Notifications/1', ...more };
    return outcomeOf(await this.#options.poster.post(new URL(url), headers, body, signal));
  }
}
