import { Bucket } from '../lib/bucket.js';
import type { LinkLimits } from './limits.js';

/** How one instance has behaved towards this process: its allowances, and the penalty it is under. */
export class Conduct {
  readonly connections: Bucket;
  readonly plain: Bucket;
  readonly links: Bucket;
  readonly wrongTokens: Bucket;
  readonly refusals: Bucket;
  framing!: Bucket;
  tiny!: Bucket;
  readonly #limits: LinkLimits;
  #offences = 0;
  #lastOffenceMs = 0;
  #blockedUntilMs = 0;

  constructor(limits: LinkLimits) {
    this.#limits = limits;
    this.connections = new Bucket(limits.connectionBurst, limits.connectionsPerS);
    this.plain = new Bucket(limits.plainBurst, limits.plainPerS);
    this.links = new Bucket(limits.linkBurst, limits.linksPerS);
    this.wrongTokens = new Bucket(limits.wrongTokensPerMinute, limits.wrongTokensPerMinute / 60);
    this.refusals = new Bucket(limits.refusalBurst, limits.refusalsPerS);
    this.#refill();
  }

  /** What is left of the penalty; 0 when there is none. */
  blockedMs(nowMs: number = performance.now()): number {
    return Math.max(0, this.#blockedUntilMs - nowMs);
  }

  /** Begins a penalty, twice as long as the last one, and answers its length. */
  punish(nowMs: number = performance.now()): number {
    if (nowMs - this.#lastOffenceMs > this.#limits.penaltyForgetMs) this.#offences = 0;
    const lengthMs = Math.min(this.#limits.penaltyMaxMs, this.#limits.penaltyFirstMs * 2 ** Math.min(this.#offences, 30));
    this.#offences += 1;
    this.#lastOffenceMs = nowMs;
    this.#blockedUntilMs = nowMs + lengthMs;
    this.#refill();
    return lengthMs;
  }

  /** After a cut the next link starts afresh: what the last one sent is paid for. */
  #refill(): void {
    this.framing = new Bucket(this.#limits.framingBurstBytes, this.#limits.framingBytesPerS);
    this.tiny = new Bucket(this.#limits.tinyBurst, this.#limits.tinyPerS);
  }
}
