import { createHmac, randomBytes } from 'node:crypto';

const PREFIX = 'whsec_';
const NEW_BYTES = 32;

/** A secret as receivers are given it. */
export function secretText(secret: Buffer): string {
  return PREFIX + secret.toString('base64');
}

export function newSecret(): Buffer {
  return randomBytes(NEW_BYTES);
}

/** The bytes of a secret's text: `whsec_` and 24 to 64 bytes as base64. Undefined for anything else. */
export function secretOf(text: string): Buffer | undefined {
  if (!text.startsWith(PREFIX)) return undefined;
  const secret = Buffer.from(text.slice(PREFIX.length), 'base64');
  const isExact = secret.toString('base64').replace(/=+$/, '') === text.slice(PREFIX.length).replace(/=+$/, '');
  return isExact && secret.length >= 24 && secret.length <= 64 ? secret : undefined;
}

/** The headers of https://www.standardwebhooks.com, signed with each of the secrets. */
export function signedHeaders(id: string, atS: number, body: string, secrets: Buffer[]): Record<string, string> {
  const signatures = secrets.map(
    (secret) => `v1,${createHmac('sha256', secret).update(`${id}.${atS}.${body}`).digest('base64')}`,
  );
  return { 'webhook-id': id, 'webhook-timestamp': String(atS), 'webhook-signature': signatures.join(' ') };
}
