import { AppError } from '../../lib/errors.js';

/** Throws `conflict` where two agents of one request would have the same name. */
export function refuseTwins(wishes: readonly { name: string }[]): void {
  const index = wishes.findIndex(({ name }, at) => wishes.findIndex((other) => other.name === name) !== at);
  if (index < 0) return;
  throw new AppError('conflict', 'two agents of one request have the same name', {
    fields: [{ path: `${index}.name`, message: 'is named twice' }],
  });
}
