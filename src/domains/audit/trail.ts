import type { Asked, AuditTrail, Became } from '../../http/audit.js';
import { networkOf } from '../../http/rate-limit.js';
import { actorOf } from '../../lib/caller.js';
import type { AuditKeys } from './audit-keys.js';
import { type Draft, draftOf, type EntryWriter, type Personal } from './entry-writer.js';
import { Refusals } from './refusals.js';

/** The audit as the edge sees it. */
export class Trail implements AuditTrail {
  readonly #writer: EntryWriter;
  readonly #keys: AuditKeys;
  readonly #refusals = new Refusals();

  constructor({ writer, keys }: { writer: EntryWriter; keys: AuditKeys }) {
    this.#writer = writer;
    this.#keys = keys;
  }

  async begin(asked: Asked): Promise<(became: Became) => void> {
    const signer = await this.#keys.signer();
    // Keyed, since what is short could be found by trying; and by its path, since equal bodies are nobody's business.
    const digest = (bytes: Uint8Array | undefined) => (bytes ? signer.tag(`of ${asked.operation}`, bytes) : null);
    const begun = {
      ...draftFor('begun', asked),
      request_digest: digest(asked.body),
      before_digest: digest(asked.before),
    };
    await this.#writer.write(begun);
    return (became) => {
      this.#writer.add({
        ...draftFor('ended', asked),
        act: begun.id,
        user_id: begun.user_id ?? became.userId ?? null,
        resource: became.resource ?? begun.resource,
        status: became.status,
        code: became.code ?? null,
        after_digest: digest(became.after),
        person: undefined,
      });
    };
  }

  refused(asked: Asked, became: Became): void {
    const said = this.#refusals.note(asked, became, networkOf(asked.address));
    if (said) this.#writer.add(refusal(said, became, 1));
  }

  /** Writes how often what was refused has been refused since. */
  async count(): Promise<void> {
    for (const { asked, became, more } of this.#refusals.take()) this.#writer.add(refusal(asked, became, more));
  }
}

function draftFor(kind: Draft['kind'], asked: Asked): Draft {
  const { caller } = asked;
  return {
    ...draftOf(kind, asked.operation, caller ? actorOf(caller) : 'anonymous'),
    user_id: asked.userId ?? null,
    resource: asked.resource ?? null,
    request_id: asked.requestId || null,
    person: personIn(asked),
  };
}

function refusal(asked: Asked, { status, code }: Became, count: number): Draft {
  return { ...draftFor('refused', asked), status, code: code ?? null, count };
}

function personIn({ address, path, caller }: Asked): Personal {
  return {
    ...(address === '' ? {} : { address }),
    ...(path === '' ? {} : { path: path.slice(0, 1_000) }),
    ...(caller && 'userName' in caller ? { name: caller.userName } : {}),
  };
}
