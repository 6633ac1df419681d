import { type Chained, digestOf, isErased, sha256 } from './entry.js';

/** An entry with its place. */
export interface Link extends Chained {
  digest: string;
  seq: number;
  hash: string;
}

export interface Head {
  seq: number;
  hash: string;
  at: Date;
  signature: Uint8Array;
}

export type Problem =
  | 'changed'
  | 'removed'
  | 'inserted'
  | 'out_of_place'
  | 'taken_out'
  | 'head_forged'
  | 'head_mismatch'
  | 'not_the_earlier_chain';

/** What is wrong, and where: the place in the chain and, where it is still to be had, the entry. */
export interface Finding {
  problem: Problem;
  seq: number | null;
  id: string | null;
  detail: string;
}

/** The hash before the first entry: another installation's chain does not go on here. */
export function firstHash(installationId: string): string {
  return sha256(`berth audit chain ${installationId}`);
}

export function linkHash(before: string, seq: number, digest: string): string {
  return sha256(`${before} ${seq} ${digest}`);
}

/** The text that a head's signature is of. */
export function headText(installationId: string, head: Pick<Head, 'seq' | 'hash' | 'at'>): string {
  return `berth audit head 1\n${installationId}\n${head.seq}\n${head.hash}\n${head.at.toISOString()}`;
}

/** The text that the receipt of a deletion is of. It names the user by digest alone. */
export function receiptText(installationId: string, receipt: { userDigest: string; entryId: string; at: Date }): string {
  return `berth deletion receipt 1\n${installationId}\n${receipt.userDigest}\n${receipt.entryId}\n${receipt.at.toISOString()}`;
}

const MOST_FINDINGS = 100;

/** Walks a chain, link by link in the order of places, and says what does not hold. */
export class ChainCheck {
  readonly findings: Finding[] = [];
  /** Digests of users whose entries were erased and whose erasure was not met yet, with the place of the first. */
  readonly unexplained = new Map<string, number>();
  readonly #erased = new Set<string>();
  #seq: number;
  #hash: string;
  checked = 0;

  /** `after`: the link before the first that is checked. */
  constructor(after: { seq: number; hash: string }) {
    this.#seq = after.seq;
    this.#hash = after.hash;
  }

  get at(): { seq: number; hash: string } {
    return { seq: this.#seq, hash: this.#hash };
  }

  take(link: Link): void {
    this.checked += 1;
    const expected = this.#seq + 1;
    const isNext = link.seq === expected;
    if (!isNext) this.find('removed', expected, null, gap(expected, link.seq - 1));
    if (digestOf(link) !== link.digest) this.find('changed', link.seq, link.id, 'its content is not what its digest was made of');
    else if (isNext && linkHash(this.#hash, link.seq, link.digest) !== link.hash)
      this.find('out_of_place', link.seq, link.id, 'it is not what was linked here: rewritten, moved or put in');
    this.#noteErasure(link);
    this.#seq = link.seq;
    this.#hash = link.hash;
  }

  /** The head must be signed, and be where the chain ends. */
  end(head: Pick<Head, 'seq' | 'hash'>, isSigned: boolean): void {
    if (!isSigned) this.find('head_forged', head.seq, null, 'the signature of the head is not of the key of this chain');
    if (this.#seq < head.seq) this.find('removed', this.#seq + 1, null, gap(this.#seq + 1, head.seq));
    else if (this.#seq > head.seq) this.find('inserted', head.seq + 1, null, 'there are entries beyond the signed head');
    else if (this.#hash !== head.hash) this.find('head_mismatch', head.seq, null, 'the chain does not end in the signed head');
  }

  /** A head that was seen before must be a link of this chain still. */
  compare(earlier: Pick<Head, 'seq' | 'hash'>, hashNow: string | undefined): void {
    if (hashNow === earlier.hash) return;
    const detail = hashNow === undefined ? 'the chain was longer once' : 'another entry was here when that head was signed';
    this.find('not_the_earlier_chain', earlier.seq, null, detail);
  }

  find(problem: Problem, seq: number | null, id: string | null, detail: string): void {
    if (this.findings.length < MOST_FINDINGS) this.findings.push({ problem, seq, id, detail });
  }

  #noteErasure(link: Link): void {
    const { user_id: user } = link;
    if (link.kind === 'erased' && user !== null) {
      this.#erased.add(user);
      this.unexplained.delete(user);
    } else if (user !== null && isErased(user)) {
      if (!this.#erased.has(user) && !this.unexplained.has(user)) this.unexplained.set(user, link.seq);
    } else if ([link.actor, link.resource, link.request_id].some(isErased)) {
      this.find('taken_out', link.seq, link.id, 'names were taken out of it, and its user was not');
    }
  }
}

function gap(from: number, to: number): string {
  return from === to ? `entry ${from} is not there` : `entries ${from} to ${to} are not there`;
}
