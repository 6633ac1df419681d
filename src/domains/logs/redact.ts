/** Takes out of a text what must not be shown. */
export type Redact = (text: string) => string;

/**
 * What looks like a credential, wherever it stands in a log line. The gateway logs no message content and no token; this is for what
 * an agent's own programs print. Tenants choose the text: each pattern takes time in proportion to its length, whatever it is.
 */
const SECRETS: [RegExp, string][] = [
  [/berth_(?:adm|usr|agt)_[0-9a-z]{26}_[A-Za-z0-9_-]{20,}/g, '[redacted key]'],
  [/\b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}/g, '[redacted key]'],
  [
    /\b(?:gh[opsu]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|xox[abposr]-[A-Za-z0-9-]{10,}|AKIA[0-9A-Z]{16}|AIza[A-Za-z0-9_-]{35}|glpat-[A-Za-z0-9_-]{20,}|npm_[A-Za-z0-9]{30,})/g,
    '[redacted key]',
  ],
  [/(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*/g, '[redacted token]'],
  [/\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{12,}/gi, '$1 [redacted]'],
  [
    /((?:password|passwd|secret|token|(?:api|access|private)[_-]?key)\\?["']?\s*[:=]\s*\\?["']?)(?!\[secret )[^\s"',;\\]{6,}/gi,
    '$1[redacted]',
  ],
  [/(\/\/[^\s/:@]+:)[^\s/@]+@/g, '$1[redacted]@'],
];

/** What each of them has somewhere: nearly all lines have nothing of it, and one look is cheaper than one for each. */
const MAYBE =
  /berth_|[spr]k-|gh[opsu]_|github_pat_|xox|akia|aiza|glpat-|npm_|eyj|bearer|basic|passw|secret|token|key|\/\/[^\s/:@]+:/i;

export function redact(text: string): string {
  if (!MAYBE.test(text)) return text;
  return SECRETS.reduce((done, [pattern, replacement]) => done.replace(pattern, replacement), text);
}
