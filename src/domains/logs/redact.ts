/**
 * What looks like a credential, wherever it stands in a log line. The gateway logs no message content and no token; this is for what
 * an agent's own programs print.
 */
const SECRETS: [RegExp, string][] = [
  [/berth_(?:adm|usr|agt)_[0-9a-z]{26}_[A-Za-z0-9_-]{20,}/g, '[redacted key]'],
  [/\b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}/g, '[redacted key]'],
  [/\b(?:gh[opsu]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|xox[abposr]-[A-Za-z0-9-]{10,}|AKIA[0-9A-Z]{16})\b/g, '[redacted key]'],
  [/\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{12,}/gi, '$1 [redacted]'],
  [/((?:password|passwd|secret|token|api[_-]?key)["']?\s*[:=]\s*["']?)[^\s"',;]{6,}/gi, '$1[redacted]'],
  [/(\/\/[^\s/:@]+:)[^\s/@]+@/g, '$1[redacted]@'],
];

export function redact(text: string): string {
  return SECRETS.reduce((done, [pattern, replacement]) => done.replace(pattern, replacement), text);
}
