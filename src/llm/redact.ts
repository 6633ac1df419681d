const PATTERNS: [RegExp, string][] = [
  [/\b[a-z][a-z0-9+.-]*:\/\/[^\s"'<>]+/gi, '[url]'],
  [/\b(?:sk|pk|rk|org|proj|xai|gsk)[-_][\w*.…-]{3,}/gi, '[redacted]'],
  [/\bBearer\s+[^\s"']+/gi, '[redacted]'],
  [/\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b/g, '[address]'],
  // oxlint-disable-next-line no-control-regex -- to be taken out
  [/[\u0000-\u001f\u007f]+/g, ' '],
];

const MAX_LENGTH = 500;

/**
 * An upstream's words made fit for a tenant: without the given secrets, anything that looks like a key, an account id, a URL or
 * an address, and without control characters; at most 500 characters.
 */
export function redact(text: string, secrets: readonly string[]): string {
  let out = text;
  for (const secret of secrets) if (secret !== '') out = out.replaceAll(secret, '[redacted]');
  // Bounded before the patterns run, so that a hostile megabyte costs nothing.
  out = out.slice(0, 4 * MAX_LENGTH);
  for (const [pattern, word] of PATTERNS) out = out.replace(pattern, word);
  return out.length > MAX_LENGTH ? `${out.slice(0, MAX_LENGTH)}…` : out;
}
