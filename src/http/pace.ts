/** How slowly bytes may pass through. Clients and instances are held to it alike. */
export interface Pace {
  /** A streamed request must bring `windowBytes` in every such time in which more of it is wanted, or be over. */
  windowMs: number;
  windowBytes: number;
  /** A streamed answer of which nothing moves for so long is given up: its client does not take it, or its source does not go on. */
  stalledMs: number;
}

export const PACE: Pace = { windowMs: 60_000, windowBytes: 16 * 1024, stalledMs: 120_000 };
