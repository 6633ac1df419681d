import { type DestinationStream, pino, type Logger } from 'pino';
import { currentTrace } from './trace.js';

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

/** The process's logger: JSON lines on stdout, credentials and message content redacted; lines of work that is part of a trace say so. */
export function createLog(level: string, to?: DestinationStream): Log {
  const paths = REDACTED_KEYS.flatMap((key) => [`["${key}"]`, `*["${key}"]`, `*.*["${key}"]`]);
  const redact = { paths, censor: '[redacted]' };
  return pino(
    { level, base: undefined, timestamp: pino.stdTimeFunctions.isoTime, redact, mixin: traceFields },
    to ?? pino.destination(1),
  );
}

function traceFields(): object {
  const trace = currentTrace();
  return trace ? { trace_id: trace.traceId, span_id: trace.spanId } : {};
}
