import { AppError } from '../lib/errors.js';
import { plainOwner } from './ref.js';
import { listAt, recordAt, textAt, textsAt } from './shapes.js';

/** What the registry thinks of one version. */
export interface Verdict {
  passed: boolean;
  decision: string;
  /** `clean`, `suspicious`, `malicious`, `pending`, `error` or what else it says. */
  status: string | null;
  reasons: string[];
  overview: string | null;
  auditUrl: string | null;
}

const SCHEMA = 'clawhub.skill.security-verdicts.v1';

/**
 * Reads the verdict on one version. One that is missing, is about another skill, or has no overview and audit page is none: nothing is installed
 * on the strength of it.
 */
export function readVerdict(answer: unknown, asked: { slug: string; owner: string | undefined; version: string }): Verdict {
  const [item] = listAt(answer, 'items');
  if (textAt(answer, 'schema') !== SCHEMA || item === undefined) throw noVerdict('gives no security verdict');
  const reasons = textsAt(item, 'reasons');
  const security = recordAt(item, 'security');
  const verdict: Verdict = {
    passed: (item as { ok?: unknown }).ok === true && textAt(item, 'decision') === 'pass' && security?.['passed'] !== false,
    decision: textAt(item, 'decision') ?? 'none',
    status: textAt(security, 'status') ?? null,
    reasons,
    overview: textAt(item, 'overview') ?? textAt(security, 'summary') ?? null,
    auditUrl: textAt(item, 'securityAuditUrl') ?? null,
  };
  if (textAt(recordAt(item, 'error'), 'code') !== undefined) return { ...verdict, passed: false };
  const publisher = plainOwner(textAt(item, 'publisherHandle'));
  const isAsked =
    textAt(item, 'slug')?.toLowerCase() === asked.slug &&
    textAt(item, 'version') === asked.version &&
    (asked.owner === undefined || publisher === asked.owner);
  if (!isAsked) throw noVerdict('gives a security verdict on another skill');
  if (verdict.auditUrl === null || textAt(item, 'overview') === undefined) throw noVerdict('gives no complete security verdict');
  return verdict;
}

/** Without a verdict nothing is installed. */
export function noVerdict(what: string): AppError {
  return new AppError('forbidden', `the registry ${what}, so nothing is installed`);
}
