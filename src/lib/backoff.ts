export interface BackoffOptions {
  firstMs: number;
  maxMs: number;
  factor?: number;
}

/**
 * How long to wait before attempt `attempt + 1`, after `attempt` failures (1 = first failure): exponential, capped, with
 * up to 20 % taken off at random so that many failures of one cause do not come back at the same moment.
 */
export function backoffMs(attempt: number, options: BackoffOptions, random: () => number = Math.random): number {
  const factor = options.factor ?? 2;
  const exact = Math.min(options.maxMs, options.firstMs * factor ** Math.max(0, Math.min(attempt, 64) - 1));
  return Math.round(exact * (1 - 0.2 * random()));
}
