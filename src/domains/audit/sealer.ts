import type { Kysely, Transaction } from 'kysely';
import { isUniqueViolation } from '../../db/errors.js';
import type { Schema } from '../../db/schema.js';
import type { Log } from '../../lib/log.js';
import type { Signer } from '../../vault/signer.js';
import type { AuditKeys } from './audit-keys.js';
import * as store from './audit.store.js';
import { firstHash, type Head, headText, linkHash } from './chain.js';
import { digestOf } from './entry.js';

export interface SealerOptions {
  db: Kysely<Schema>;
  keys: AuditKeys;
  log: Log;
  installationId: string;
}

const AT_ONCE = 200;
const SAY_HEAD_MS = 60 * 60_000;

/**
 * Links entries into the chain, some time after they were written, so that no request waits for another's. Whoever holds the head's row is the one
 * who does it; places, hashes and the signed head come in one transaction, so that a kill leaves all of a batch or nothing.
 */
export class Sealer {
  readonly #options: SealerOptions;
  /** Entries that no Berth process wrote: they stay out. */
  readonly #foreign = new Set<string>();
  #saidMs = -Infinity;

  constructor(options: SealerOptions) {
    this.#options = options;
  }

  /** All that is there to be sealed. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted && (await store.hasUnsealedAcrossTenants(this.#options.db)) && (await this.#batch()) === AT_ONCE);
  }

  /** Makes the head of a chain without entries, where there is none. */
  async begin(): Promise<void> {
    if (await store.readHeadAcrossTenants(this.#options.db)) return;
    const signer = await this.#options.keys.signer();
    const head = this.#sign(signer, { seq: 0, hash: firstHash(this.#options.installationId), at: new Date() });
    try {
      await this.#options.db.transaction().execute((trx) => store.insertHeadAcrossTenants(trx, head));
    } catch (error) {
      if (!isUniqueViolation(error, 'audit_heads_pkey')) throw error;
    }
  }

  async #batch(): Promise<number> {
    const signer = await this.#options.keys.signer();
    const sealed = await this.#options.db.transaction().execute(async (trx) => {
      const head = await store.holdHeadAcrossTenants(trx);
      if (head === 'elsewhere' || head === undefined) return undefined;
      return this.#seal(trx, signer, head);
    });
    if (sealed) this.#say(sealed.head);
    return sealed?.taken ?? 0;
  }

  async #seal(trx: Transaction<Schema>, signer: Signer, head: Head): Promise<{ taken: number; head: Head } | undefined> {
    const entries = await store.readUnsealedAcrossTenants(trx, AT_ONCE, [...this.#foreign]);
    const ours = entries.filter((entry) => this.#isOurs(signer, entry));
    if (ours.length === 0) return undefined;
    const users = [...new Set(ours.flatMap(({ user_id }) => (user_id?.startsWith('usr_') ? [user_id] : [])))];
    // Of whom nothing is to be left: written in the moment of the erasure.
    for (const gone of await store.goneAcrossTenants(trx, users)) await store.takeOutPerson(trx, gone);
    const links = linksAfter(head, ours);
    await store.placeAcrossTenants(trx, links);
    const last = links.at(-1)!;
    const next = this.#sign(signer, { seq: last.seq, hash: last.hash, at: new Date() });
    await store.setHeadAcrossTenants(trx, next);
    return { taken: entries.length, head: next };
  }

  #isOurs(signer: Signer, entry: Awaited<ReturnType<typeof store.readUnsealedAcrossTenants>>[number]): boolean {
    if (digestOf(entry) === entry.digest && signer.tag('audit entry', entry.digest) === entry.mac) return true;
    if (this.#foreign.size < 1_000) this.#foreign.add(entry.id);
    this.#options.log.error(
      { entry: entry.id },
      'an audit entry was not written by Berth as it stands: it stays out of the chain',
    );
    return false;
  }

  #sign(signer: Signer, head: Omit<Head, 'signature'>): Head {
    return { ...head, signature: signer.sign(headText(this.#options.installationId, head)) };
  }

  /** Now and then in the log, which is kept elsewhere than the database: what was said there cannot be taken back. */
  #say({ seq, hash }: Head): void {
    if (performance.now() - this.#saidMs < SAY_HEAD_MS) return;
    this.#saidMs = performance.now();
    this.#options.log.info({ seq, hash }, 'the head of the audit chain');
  }
}

function linksAfter(head: Head, entries: { id: string; digest: string }[]): { id: string; seq: number; hash: string }[] {
  let { seq, hash } = head;
  return entries.map(({ id, digest }) => {
    seq += 1;
    hash = linkHash(hash, seq, digest);
    return { id, seq, hash };
  });
}
