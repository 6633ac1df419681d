import { AppError } from '../../lib/errors.js';

/** A header of the request, if it has that one. */
type HeaderOf = (name: string) => string | undefined;

const ONE_RANGE = /^bytes=(?:\d{1,15}-\d{0,15}|-\d{1,15})$/;
const ETAG = /^"[\x21\x23-\x7e]{1,200}"$/;
const ETAGS = /^(?:\*|(?:W\/)?"[\x21\x23-\x7e]{1,200}"(?:\s*,\s*(?:W\/)?"[\x21\x23-\x7e]{1,200}"){0,19})$/;

/** What of a reading request's headers is for the gateway. A `Range` of a form that it does not have is left aside, as HTTP wants it. */
export function readGuards(headerOf: HeaderOf): Record<string, string> {
  const headers: Record<string, string> = {};
  const range = headerOf('range')?.trim();
  const ifRange = headerOf('if-range')?.trim();
  const ifNoneMatch = headerOf('if-none-match')?.trim();
  // A date in If-Range says too little of a file that may change twice in a second: the whole file is always a right answer.
  if (range !== undefined && ONE_RANGE.test(range) && (ifRange === undefined || ETAG.test(ifRange))) {
    headers['range'] = range;
    if (ifRange !== undefined) headers['if-range'] = ifRange;
  }
  if (ifNoneMatch !== undefined && ETAGS.test(ifNoneMatch)) headers['if-none-match'] = ifNoneMatch;
  return headers;
}

/** The guards of a writing request. One that cannot be understood is refused: to leave it aside would write what was not to be written. */
export function writeGuards(headerOf: HeaderOf): Record<string, string> {
  const headers: Record<string, string> = {};
  const ifMatch = headerOf('if-match')?.trim();
  const ifNoneMatch = headerOf('if-none-match')?.trim();
  if (ifMatch !== undefined) {
    if (ifMatch !== '*' && !ETAG.test(ifMatch)) throw invalid('If-Match', 'must be one ETag in quotes, or *');
    headers['if-match'] = ifMatch;
  }
  if (ifNoneMatch !== undefined) {
    if (ifNoneMatch !== '*') throw invalid('If-None-Match', 'must be * where something is written');
    headers['if-none-match'] = '*';
  }
  return headers;
}

function invalid(name: string, message: string): AppError {
  return new AppError('invalid_request', `invalid ${name}`, { fields: [{ path: `header.${name}`, message }] });
}
