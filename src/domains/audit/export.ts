import type { Link } from './chain.js';

/** A link as it stands in an export: all that its digest is made of, and what links it. */
export function exportLine(link: Link): string {
  const { seq, id, kind, act, at, operation, actor, user_id, resource, request_id, status, code, count } = link;
  const { request_digest, before_digest, after_digest, personal_digest, digest, hash } = link;
  const entry = {
    seq,
    id,
    kind,
    act,
    at: at.toISOString(),
    operation,
    actor,
    user_id,
    resource,
    request_id,
    status,
    code,
    count,
  };
  return JSON.stringify(Object.assign(entry, { request_digest, before_digest, after_digest, personal_digest, digest, hash }));
}
