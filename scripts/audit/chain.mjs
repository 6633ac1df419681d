// Checks an export of Berth's audit without Berth: nothing here comes from its sources, and nothing is asked of its database. Read it before you
// believe it. The format: docs/decisions/0009-audit-chain.md.
import { createHash, createPublicKey, verify } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';

const ERASED = 'sha256:';
const MOST_FINDINGS = 100;

const sha256 = (text) => createHash('sha256').update(text).digest('hex');
const isErased = (value) => typeof value === 'string' && value.startsWith(ERASED);
/** Of what may be personal, the digest is what the chain was made over. */
const kept = (value) => (value === null || isErased(value) ? value : ERASED + sha256(value));

function digestOf(entry) {
  const { id, kind, act, at, operation, actor, user_id, resource, request_id, status, code, count } = entry;
  const { request_digest, before_digest, after_digest, personal_digest } = entry;
  const who = [actor, user_id, resource, request_id].map(kept);
  const of = [request_digest, before_digest, after_digest, personal_digest];
  return sha256(JSON.stringify(['berth audit 1', id, kind, act, at, operation, ...who, status, code, count, ...of]));
}

function isSigned(text, { signature, public_key }) {
  const x = Buffer.from(public_key, 'base64').toString('base64url');
  const key = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' });
  return verify(null, Buffer.from(text), key, Buffer.from(signature, 'base64'));
}

const headText = ({ installation, seq, hash, at }) => ['berth audit head 1', installation, seq, hash, at].join('\n');

/** A head of before, from an older export or kept from `GET /api/v1/audit/head`: who signed it, and that they did. */
export function checkedHead(head) {
  if (!isSigned(headText(head), head)) throw new Error('the earlier head is not signed by its own key');
  return head;
}

/** Reads an export: its links in their order, and the head at its end. */
export async function readExport(path, take) {
  let head;
  const lines = createInterface({ input: createReadStream(path), crlfDelay: Infinity });
  for await (const line of lines) {
    if (line === '') continue;
    if (head) throw new Error('there is something after the head');
    let parsed;
    try {
      parsed = JSON.parse(line);
    } catch {
      throw new Error('a line is not JSON');
    }
    if (parsed.head) head = parsed.head;
    else await take(parsed);
  }
  if (!head) throw new Error('the export has no head at its end: it is not whole');
  return head;
}

/**
 * Checks an export. `key` (base64) is the public key that it must be signed by, `earlier` a head that must be part of it. Answers how much was
 * checked and what was found.
 */
export async function checkExport(path, { key, earlier } = {}) {
  const findings = [];
  const find = (problem, seq, id, detail) => findings.length < MOST_FINDINGS && findings.push({ problem, seq, id, detail });
  const gap = (from, to) => (from === to ? `entry ${from} is not there` : `entries ${from} to ${to} are not there`);
  const erased = new Set();
  const takenOut = new Map();
  let checked = 0;
  let earlierNow;
  let last;
  const { installation } = await readExport(path, () => {});
  last = { seq: 0, hash: sha256(`berth audit chain ${installation}`) };
  const head = await readExport(path, (link) => {
    checked += 1;
    const expected = last.seq + 1;
    if (link.seq < expected) return find('out_of_place', link.seq, link.id, 'it stands after a later one');
    if (link.seq > expected) find('removed', expected, null, gap(expected, link.seq - 1));
    if (digestOf(link) !== link.digest) find('changed', link.seq, link.id, 'its content is not what its digest was made of');
    else if (link.seq === expected && sha256(`${last.hash} ${link.seq} ${link.digest}`) !== link.hash)
      find('out_of_place', link.seq, link.id, 'it is not what was linked here: rewritten, moved or put in');
    if (link.kind === 'erased') erased.add(link.user_id);
    else if (isErased(link.user_id)) takenOut.set(link.user_id, takenOut.get(link.user_id) ?? link.seq);
    else if ([link.actor, link.resource, link.request_id].some(isErased))
      find('taken_out', link.seq, link.id, 'names were taken out of it, and its user was not');
    if (link.seq === earlier?.seq) earlierNow = link.hash;
    last = link;
  });
  for (const [user, seq] of takenOut)
    if (!erased.has(user)) find('taken_out', seq, null, 'names were taken out of entries of a user that was not erased');
  if (!isSigned(headText(head), head)) find('head_forged', head.seq, null, 'the head is not signed by the key beside it');
  if (key !== undefined && key !== head.public_key)
    find('head_forged', head.seq, null, 'the head is signed by another key than the one given');
  if (last.seq < head.seq) find('removed', last.seq + 1, null, gap(last.seq + 1, head.seq));
  else if (last.seq > head.seq) find('inserted', head.seq + 1, null, 'there are entries beyond the signed head');
  else if (last.hash !== head.hash) find('head_mismatch', head.seq, null, 'the chain does not end in the signed head');
  if (earlier && earlier.public_key !== head.public_key)
    find('head_forged', head.seq, null, 'the head is signed by another key than the earlier one');
  if (earlier && earlier.seq > 0 && earlierNow !== earlier.hash)
    find(
      'not_the_earlier_chain',
      earlier.seq,
      null,
      earlierNow === undefined ? 'the chain was longer once' : 'another entry was here',
    );
  return { checked, head, findings };
}
