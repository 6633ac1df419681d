import { outcomeOf, type Reply } from '../../lib/attempt.js';
import { messageOf } from '../../lib/errors.js';
import type { Poster } from '../../link/outbound.js';
import type { Vault } from '../../vault/vault.js';
import { VaultError } from '../../vault/vault-error.js';
import type { AttemptRow } from './deliveries.store.js';
import { signedHeaders } from './signing.js';
import type { WebhookRow } from './webhooks.store.js';

/** An event as it goes out. */
export interface Parcel {
  /** Of the event: the same at every attempt and replay, so that receivers can tell what they have had. */
  eventId: string;
  body: string;
}

export type Attempt = Reply & Pick<AttemptRow, 'ms'> & { response: string | undefined };

const SHOWN_CHARACTERS = 1_000;

export function secretPlace(webhookId: string, version: number) {
  return { scope: webhookId, name: 'webhooks.secret', version };
}

/** One attempt to bring a parcel to a webhook, signed with its secret and with the one before it while that holds. */
export class Sender {
  readonly #vault: Vault;
  readonly #poster: Poster;

  constructor({ vault, poster }: { vault: Vault; poster: Poster }) {
    this.#vault = vault;
    this.#poster = poster;
  }

  /** Never throws for what goes wrong on the way: that is what came of it. */
  async send(webhook: WebhookRow, dataKey: Buffer, { eventId, body }: Parcel, signal: AbortSignal): Promise<Attempt> {
    const begunMs = performance.now();
    const done = (reply: Reply, response?: string): Attempt => ({
      ...reply,
      response,
      ms: Math.round(performance.now() - begunMs),
    });
    try {
      const headers = {
        'content-type': 'application/json',
        'user-agent': 'Berth-Webhooks/1',
        ...signedHeaders(eventId, Math.floor(Date.now() / 1_000), body, this.#secrets(webhook, dataKey)),
      };
      const { status, retryAfter, text } = await this.#poster.post(new URL(webhook.url), headers, body, signal);
      return done({ status, retryAfter, error: outcomeOf({ status }).error }, shown(text));
    } catch (error) {
      signal.throwIfAborted();
      return done({ error: error instanceof VaultError ? "the webhook's secret does not open" : messageOf(error).slice(0, 500) });
    }
  }

  #secrets(webhook: WebhookRow, dataKey: Buffer): Buffer[] {
    const {
      id,
      secret,
      secret_version: version,
      old_secret: old,
      old_secret_version: oldVersion,
      old_secret_until: until,
    } = webhook;
    const secrets = [this.#vault.open(dataKey, secretPlace(id, version), secret)];
    if (old && oldVersion !== null && until !== null && until.getTime() > Date.now())
      secrets.push(this.#vault.open(dataKey, secretPlace(id, oldVersion), old));
    return secrets;
  }
}

/** As the database can keep it. */
function shown(text: string): string {
  return text.replaceAll('\0', '\uFFFD').slice(0, SHOWN_CHARACTERS);
}
