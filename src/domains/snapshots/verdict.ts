import { AppError, type ErrorCode } from '../../lib/errors.js';

/** What no second try makes better. */
const FOR_GOOD = new Set<ErrorCode>([
  'not_found',
  'conflict',
  'payload_too_large',
  'insufficient_storage',
  'unprocessable',
  'invalid_request',
  'limit_exceeded',
]);

/** Whether trying again is of no use: refused, or (a `VaultError`) a file that was altered. */
export function isForGood(error: unknown): boolean {
  if (error instanceof AppError) return FOR_GOOD.has(error.code);
  return error instanceof Error && error.name === 'VaultError';
}
