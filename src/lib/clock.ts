/** Where times come from. Tests move it by an offset; nothing else reads `Date.now()` for decisions. */
export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number;
}

export const systemClock: Clock = { now: () => Date.now() };
