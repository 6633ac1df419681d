import { AppError } from '../lib/errors.js';
import type { Reply } from './exchange.js';
import { isRecord, listAt, oneLine, recordAt, textAt } from './shapes.js';

const SHOWN = 300;
const LONGEST_WAIT_S = 3_600;

/** What a failed answer of the registry becomes. Its own words are shown, in one line and bounded. */
export function failureOf(reply: Reply): AppError {
  const { status } = reply;
  const words = wordsOf(reply);
  const said = (lead: string) => (words === '' ? lead : `${lead}: ${words}`);
  const retryAfterS = waitOf(reply);
  if (status === 409)
    return ambiguity(reply, said('the registry has several skills of that name, or none that can be installed'));
  if (status === 403 || status === 451) return new AppError('forbidden', said('the registry refuses the skill'));
  if (status === 404) return new AppError('not_found', said('the registry has no such skill'));
  if (status === 410) return new AppError('not_found', said('the registry has removed the skill'));
  if (status === 423)
    return new AppError('conflict', said('the registry is still checking the skill'), { retryAfterS: retryAfterS ?? 60 });
  if (status === 429)
    return new AppError('rate_limited', said('the registry wants us to wait'), { retryAfterS: retryAfterS ?? 60 });
  if (status === 400) return new AppError('invalid_request', said('the registry does not understand that'));
  if (status === 503) return new AppError('unavailable', 'the registry is away', { retryAfterS: retryAfterS ?? 30 });
  return new AppError('upstream_error', `the registry answered with status ${status}`);
}

/** Several publishers have a skill of that name: who, as far as the registry says. */
function ambiguity(reply: Reply, message: string): AppError {
  const owners = listAt(jsonOf(reply), 'matches').flatMap((match) => textAt(match, 'ownerHandle') ?? []);
  if (owners.length === 0) return new AppError('conflict', message);
  const refs = owners.slice(0, 20).map((owner) => `@${owner.replace(/^@/, '')}`);
  return new AppError('conflict', 'several publishers have a skill of that name', {
    fields: [{ path: 'owner', message: `must be one of ${refs.join(', ')}` }],
  });
}

/** Errors are plain text; some are JSON with a message. */
function wordsOf(reply: Reply): string {
  const json = jsonOf(reply);
  const text = textAt(json, 'message') ?? textAt(recordAt(json, 'error'), 'message') ?? textAt(json, 'error');
  if (text !== undefined) return text.slice(0, SHOWN);
  // A page for people, such as a proxy puts before a server that is down.
  return /html/i.test(String(reply.headers['content-type'])) ? '' : oneLine(reply.bytes.toString('utf8')).slice(0, SHOWN);
}

/** In seconds, from either of the forms of Retry-After, or the registry's own header. */
function waitOf({ headers }: Reply): number | undefined {
  const after = headers['retry-after'];
  const seconds = /^\d+$/.test(after ?? '') ? Number(after) : (Date.parse(after ?? '') - Date.now()) / 1000;
  const reset = Number(headers['ratelimit-reset'] ?? Number.NaN);
  const wait = Number.isFinite(seconds) ? seconds : reset;
  return Number.isFinite(wait) ? Math.min(Math.max(1, Math.ceil(wait)), LONGEST_WAIT_S) : undefined;
}

function jsonOf({ bytes }: Reply): unknown {
  try {
    const value: unknown = JSON.parse(bytes.toString('utf8'));
    return isRecord(value) ? value : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}
