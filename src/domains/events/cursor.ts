import { AppError } from '../../lib/errors.js';

export function invalidCursor(): AppError {
  return new AppError('invalid_request', 'invalid cursor', {
    fields: [{ path: 'cursor', message: 'must be the cursor of an event, or the next_cursor of an earlier answer' }],
  });
}
