import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Signer } from '../../vault/signer.js';
import type { AuditKeys } from './audit-keys.js';
import * as store from './audit.store.js';
import { ChainCheck, type Finding, firstHash, type Head, headText } from './chain.js';
import { digestOf, sha256 } from './entry.js';

export interface VerificationOptions {
  db: Kysely<Schema>;
  keys: AuditKeys;
  installationId: string;
}

export interface Verified {
  checked: number;
  unsealed: number;
  next: number | null;
  findings: Finding[];
  head: Head;
}

const PAGE = 1_000;
const PAGES_AT_MOST = 100;
const UNSEALED_LOOKED_AT = 1_000;
const NO_SIGNATURE = new Uint8Array(64);

/** Checks the chain as it stands in the database, and the head by the key that the vault opens, not by one that lies beside it. */
export class Verification {
  readonly #db: Kysely<Schema>;
  readonly #keys: AuditKeys;
  readonly #installationId: string;

  constructor({ db, keys, installationId }: VerificationOptions) {
    this.#db = db;
    this.#keys = keys;
    this.#installationId = installationId;
  }

  /** As it is signed now. One that is gone is as one that was forged. */
  async head(): Promise<Head> {
    const head = await store.readHeadAcrossTenants(this.#db);
    return head ?? { seq: 0, hash: '', at: new Date(0), signature: NO_SIGNATURE };
  }

  /** From a place on, a hundred thousand links at most; where more are left, the next call goes on from `next`. */
  async run(after: number, earlier: Pick<Head, 'seq' | 'hash'> | undefined): Promise<Verified> {
    const signer = await this.#keys.signer();
    // Before the links: those that are sealed meanwhile are not looked at.
    const head = await this.head();
    const check = new ChainCheck({ seq: after, hash: (await this.#hashAt(after)) ?? 'nothing' });
    const isWhole = await this.#walk(check, head);
    if (isWhole) check.end(head, signer.isSigned(headText(this.#installationId, head), head.signature));
    if (isWhole && (await this.#isBeyond(head)))
      check.find('inserted', head.seq + 1, null, 'there are entries beyond the signed head');
    if (earlier) check.compare(earlier, await this.#hashAt(earlier.seq));
    await this.#explain(check);
    const unsealed = await this.#lookAtUnsealed(check, signer);
    return { checked: check.checked, unsealed, next: isWhole ? null : check.at.seq, findings: check.findings, head };
  }

  async #walk(check: ChainCheck, head: Head): Promise<boolean> {
    for (let page = 0; page < PAGES_AT_MOST; page++) {
      const links = await store.readLinksAcrossTenants(this.#db, check.at.seq, PAGE);
      for (const link of links) {
        if (link.seq > head.seq) return true;
        check.take(link);
        checkPersonal(check, link);
      }
      if (links.length < PAGE) return true;
    }
    return false;
  }

  /** Whether the chain goes on beyond a head that has not moved on either. */
  async #isBeyond(head: Head): Promise<boolean> {
    if ((await store.readLinksAcrossTenants(this.#db, head.seq, 1)).length === 0) return false;
    return (await this.head()).seq === head.seq;
  }

  async #hashAt(seq: number): Promise<string | undefined> {
    return seq === 0 ? firstHash(this.#installationId) : store.readHashAcrossTenants(this.#db, seq);
  }

  /** Entries of which a person was taken out must be of a user whose erasure is in the chain too. */
  async #explain(check: ChainCheck): Promise<void> {
    const erased = await store.erasuresAcrossTenants(this.#db, [...check.unexplained.keys()]);
    for (const [user, seq] of check.unexplained)
      if (!erased.has(user)) check.find('taken_out', seq, null, 'names were taken out of entries of a user that was not erased');
  }

  async #lookAtUnsealed(check: ChainCheck, signer: Signer): Promise<number> {
    const entries = await store.readUnsealedAcrossTenants(this.#db, UNSEALED_LOOKED_AT);
    for (const entry of entries) {
      if (digestOf(entry) === entry.digest && signer.tag('audit entry', entry.digest) === entry.mac) continue;
      check.find('inserted', null, entry.id, 'it was not written by Berth as it stands');
    }
    return entries.length;
  }
}

/** What is sealed is not in the chain, but its digest is. */
function checkPersonal(check: ChainCheck, link: Awaited<ReturnType<typeof store.readLinksAcrossTenants>>[number]): void {
  const { personal, personal_digest: digest, user_id: user, kind, seq, id } = link;
  if (personal && sha256(personal) !== digest) check.find('changed', seq, id, 'its sealed part is another');
  if (personal || digest === null || user?.startsWith('sha256:')) return;
  // Where strangers came from is forgotten after a while.
  if (!(kind === 'refused' && user === null)) check.find('taken_out', seq, id, 'its sealed part is gone, and its user is not');
}
