import { pino, type Logger } from 'pino';

export type Log = Logger;

/** Keys that never reach a log line, at any of these depths. A test logs each of them and looks. */
export const REDACTED_KEYS = [
  'authorization',
  'x-api-key',
  'cookie',
  'set-cookie',
  'proxy-authorization',
  'password',
  'secret',
  'token',
  'apiKey',
  'api_key',
  'key',
  'masterKey',
  'pepper',
  'messages',
  'content',
] as const;

/** The process's logger: JSON lines on stdout, credentials and message content redacted. */
export function createLog(level: string): Log {
  const paths = REDACTED_KEYS.flatMap((key) => [`["${key}"]`, `*["${key}"]`, `*.*["${key}"]`]);
  return pino({ level, base: undefined, timestamp: pino.stdTimeFunctions.isoTime, redact: { paths, censor: '[redacted]' } });
}
